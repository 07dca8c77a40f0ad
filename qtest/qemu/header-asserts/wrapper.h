/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Input of bindgen: the virtio headers that the register maps in Rust are compared with. Nothing
 * here is called.
 */

#include "../../pci/bindgen-osdep.h"

#include "standard-headers/linux/virtio_balloon.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_console.h"
#include "standard-headers/linux/virtio_ids.h"
#include "standard-headers/linux/virtio_net.h"
#include "standard-headers/linux/virtio_pci.h"
#include "standard-headers/linux/virtio_scsi.h"
