/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest of a few kilobytes without an operating system. It finds the first virtio function with
 * legacy IDs on PCI, carries out a script of accesses to it, and prints every answer to the first
 * serial port.
 *
 * The script is the first multiboot module (QEMU's option -initrd), text with one command in each line;
 * all numbers are hexadecimal, W is a width in bytes (1, 2 or 4):
 *
 *   rW OFFSET            read the register window, BAR0
 *   wW OFFSET VALUE      write it
 *   cW OFFSET            read the configuration space
 *   CW OFFSET VALUE      write it
 *   msix 0|1             switch MSI-X
 *   tread COUNT OFFSET   read COUNT times, W = 1; tells the time stamp counter's ticks for each
 *   tbell COUNT QUEUE    ring the doorbell of QUEUE COUNT times; tells ticks as well
 *   # ...                nothing
 *
 * Every command is printed as it is read, behind it " = " and the answer. The last line is "end" with
 * the number of commands. Then QEMU ends by isa-debug-exit at port 0xf4: with status 1, or 3 when
 * something was wrong, about which there is a line "error: ...".
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SERIAL 0x3f8
#define DEBUG_EXIT 0xf4
#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc
#define NONE 0xffffffffu
#define BUSES 8

/* Registers in the configuration space. */
#define CFG_ID 0x00
#define CFG_COMMAND 0x04
#define CFG_CLASS 0x08
#define CFG_BAR0 0x10
#define CFG_SUBSYSTEM 0x2c
#define CFG_CAPABILITIES 0x34
#define STATUS_CAPABILITIES 0x10
#define CAPABILITY_MSIX 0x11
#define COMMAND_IO 1
#define COMMAND_MEMORY 2
#define COMMAND_MASTER 4

#define NOTIFY 16
#define MAX_SAMPLES 4096

struct multiboot {
    u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
};
struct module {
    u32 start, end, string, pad;
};
#define MULTIBOOT_MAGIC 0x2badb002u
#define HAS_MODULES 8

static u32 samples[MAX_SAMPLES];

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline void outw(u16 port, u16 value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory"); return v; }
static inline u16 inw(u16 port) { u16 v; __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory"); return v; }
static inline u32 inl(u16 port) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory"); return v; }
static inline u64 ticks(void) { u32 lo, hi; __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory"); return ((u64)hi << 32) | lo; }

/* What a compiler may call even without a library. */
void *memset(void *to, int value, u32 count)
{
    for (u8 *at = to; count; count--) {
        *at++ = (u8)value;
    }
    return to;
}

static void put(char c)
{
    for (int tries = 0; !(inb(SERIAL + 5) & 0x20) && tries < 100000; tries++) {
    }
    outb(SERIAL, (u8)c);
}

static void print(const char *text)
{
    for (; *text; text++) {
        put(*text);
    }
}

static void print_hex(u32 value, int digits)
{
    for (int shift = digits * 4 - 4; shift >= 0; shift -= 4) {
        put("0123456789abcdef"[(value >> shift) & 15]);
    }
}

static void print_decimal(u32 value)
{
    char text[11];
    int at = 10;

    text[10] = 0;
    do {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    print(text + at);
}

static void leave(int failed)
{
    outb(DEBUG_EXIT, (u8)failed);
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

static void fail(const char *why)
{
    print("error: ");
    print(why);
    print("\n");
    leave(1);
}

/* Configuration space by the old mechanism. */

static u32 device;

static void config_select(u32 offset) { outl(CONFIG_ADDRESS, 0x80000000u | device | (offset & 0xfc)); }

static u32 config_read(u32 width, u32 offset)
{
    u16 port = (u16)(CONFIG_DATA + (offset & 3));

    config_select(offset);
    return width == 1 ? inb(port) : width == 2 ? inw(port) : inl(CONFIG_DATA);
}

static void config_write(u32 width, u32 offset, u32 value)
{
    u16 port = (u16)(CONFIG_DATA + (offset & 3));

    config_select(offset);
    if (width == 1) {
        outb(port, (u8)value);
    } else if (width == 2) {
        outw(port, (u16)value);
    } else {
        outl(CONFIG_DATA, value);
    }
}

/* The first function with vendor 1af4 and a device ID of the legacy or transitional range. */
static int find(void)
{
    for (u32 at = 0; at < BUSES * 256; at++) {
        device = at << 8;
        u32 id = config_read(4, CFG_ID);
        if ((id & 0xffff) == 0x1af4 && (id >> 16) >= 0x1000 && (id >> 16) < 0x1040) {
            return 1;
        }
    }
    return 0;
}

static u32 capability(u8 wanted)
{
    u32 at;

    if (!(config_read(2, CFG_COMMAND + 2) & STATUS_CAPABILITIES)) {
        return 0;
    }
    at = config_read(1, CFG_CAPABILITIES) & 0xfc;
    for (int count = 0; at && count < 48; count++) {
        if (config_read(1, at) == wanted) {
            return at;
        }
        at = config_read(1, at + 1) & 0xfc;
    }
    return 0;
}

static u16 window;

static u32 window_read(u32 width, u32 offset)
{
    u16 port = (u16)(window + offset);

    return width == 1 ? inb(port) : width == 2 ? inw(port) : inl(port);
}

static void window_write(u32 width, u32 offset, u32 value)
{
    u16 port = (u16)(window + offset);

    if (width == 1) {
        outb(port, (u8)value);
    } else if (width == 2) {
        outw(port, (u16)value);
    } else {
        outl(port, value);
    }
}

/* Prints smallest, median and sum of the samples, which it sorts. */
static void print_samples(u32 count)
{
    u32 sum = 0;

    for (u32 i = 1; i < count; i++) {
        u32 value = samples[i], j = i;
        for (; j && samples[j - 1] > value; j--) {
            samples[j] = samples[j - 1];
        }
        samples[j] = value;
    }
    for (u32 i = 0; i < count; i++) {
        sum += samples[i];
    }
    print("min ");
    print_decimal(samples[0]);
    print(" median ");
    print_decimal(samples[count / 2]);
    print(" sum ");
    print_decimal(sum);
}

static void time(u32 count, u32 argument, int bell)
{
    if (!count || count > MAX_SAMPLES) {
        fail("count");
    }
    for (u32 i = 0; i < count; i++) {
        u64 before = ticks();
        if (bell) {
            outw((u16)(window + NOTIFY), (u16)argument);
        } else {
            inb((u16)(window + argument));
        }
        samples[i] = (u32)(ticks() - before);
    }
    print_samples(count);
}

static void switch_msix(u32 on)
{
    u32 at = capability(CAPABILITY_MSIX);

    if (!at) {
        print("none");
        return;
    }
    u32 control = config_read(2, at + 2) & 0x7fff;
    config_write(2, at + 2, control | (on ? 0x8000 : 0));
    print(config_read(2, at + 2) & 0x8000 ? "on" : "off");
}

/* The script. */

static const char *at, *end;

static int starts(const char *word)
{
    const char *p = at;

    for (; *word; word++, p++) {
        if (p == end || *p != *word) {
            return 0;
        }
    }
    at = p;
    return 1;
}

static u32 number(void)
{
    u32 value = 0, digits = 0;

    while (at < end && *at == ' ') {
        at++;
    }
    for (; at < end; at++, digits++) {
        char c = *at;
        u32 digit = c >= '0' && c <= '9' ? (u32)(c - '0') : c >= 'a' && c <= 'f' ? (u32)(c - 'a' + 10) : NONE;
        if (digit == NONE) {
            break;
        }
        value = value << 4 | digit;
    }
    if (!digits) {
        fail("a number is missing");
    }
    return value;
}

static u32 width(void)
{
    u32 value = number();

    if (value != 1 && value != 2 && value != 4) {
        fail("width");
    }
    return value;
}

static void command(void)
{
    if (starts("msix ")) {
        switch_msix(number());
    } else if (starts("tread ")) {
        u32 count = number();
        time(count, number(), 0);
    } else if (starts("tbell ")) {
        u32 count = number();
        time(count, number(), 1);
    } else if (starts("r")) {
        u32 w = width();
        print_hex(window_read(w, number()), (int)w * 2);
    } else if (starts("w")) {
        u32 w = width(), offset = number();
        window_write(w, offset, number());
        print("written");
    } else if (starts("c")) {
        u32 w = width();
        print_hex(config_read(w, number()), (int)w * 2);
    } else if (starts("C")) {
        u32 w = width(), offset = number();
        config_write(w, offset, number());
        print("written");
    } else {
        fail("unknown command");
    }
}

static u32 run(void)
{
    u32 count = 0;

    while (at < end) {
        const char *line = at;
        if (*at == '\n') {
            at++;
            continue;
        }
        if (*at == '#') {
            while (at < end && *at != '\n') {
                at++;
            }
            continue;
        }
        for (const char *p = line; p < end && *p != '\n'; p++) {
            put(*p);
        }
        print(" = ");
        command();
        print("\n");
        count++;
        if (at < end && *at != '\n') {
            fail("more than a command in a line");
        }
    }
    return count;
}

void guest_main(u32 magic, const struct multiboot *info)
{
    if (magic != MULTIBOOT_MAGIC || !(info->flags & HAS_MODULES) || !info->mods_count) {
        fail("no script");
    }
    const struct module *script = (const struct module *)info->mods_addr;
    at = (const char *)script->start;
    end = (const char *)script->end;
    if (!find()) {
        fail("no virtio function with legacy IDs");
    }
    u32 bar = config_read(4, CFG_BAR0);
    config_write(4, CFG_BAR0, NONE);
    u32 sizing = config_read(4, CFG_BAR0);
    config_write(4, CFG_BAR0, bar);
    if (!(bar & 1) || !(bar & 0xfffc)) {
        fail("BAR0 is no I/O window with an address");
    }
    window = (u16)(bar & 0xfffc);
    print("id = ");
    print_hex(config_read(4, CFG_ID), 8);
    print("\nclass and revision = ");
    print_hex(config_read(4, CFG_CLASS), 8);
    print("\nsubsystem = ");
    print_hex(config_read(4, CFG_SUBSYSTEM), 8);
    print("\nsize of BAR0 = ");
    print_decimal((~(sizing & ~3u) + 1) & 0xffff);
    print("\n");
    config_write(2, CFG_COMMAND, COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER);
    u32 count = run();
    print("end ");
    print_decimal(count);
    print("\n");
    leave(0);
}
