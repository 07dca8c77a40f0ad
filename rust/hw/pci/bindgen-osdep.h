/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What comes first in the input of bindgen, here and in the crates on top of this one. */

#ifndef __CLANG_STDATOMIC_H
#define __CLANG_STDATOMIC_H
/* libclang may not find its own stdatomic.h; no symbol of it is used here. */
typedef enum memory_order {
  memory_order_relaxed,
  memory_order_consume,
  memory_order_acquire,
  memory_order_release,
  memory_order_acq_rel,
  memory_order_seq_cst,
} memory_order;
#endif /* __CLANG_STDATOMIC_H */

#include "qemu/osdep.h"
