/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Entry of the bare-metal guest: what a multiboot loader starts in 32-bit protected mode. */
        .set    MAGIC, 0x1badb002
        .set    FLAGS, 0x3              /* modules on page borders, memory information */

        .section .multiboot, "a"
        .balign 4
        .long   MAGIC
        .long   FLAGS
        .long   -(MAGIC + FLAGS)

        .text
        .globl  _start
_start:
        movl    $stack_end, %esp
        pushl   %ebx                    /* multiboot information */
        pushl   %eax                    /* 0x2badb002 */
        call    guest_main
halt:   cli
        hlt
        jmp     halt

        .bss
        .balign 16
stack:  .skip   16384
stack_end:

        .section .note.GNU-stack, "", @progbits
