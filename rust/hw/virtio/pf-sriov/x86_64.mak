# SPDX-License-Identifier: GPL-2.0-or-later
#
# Devices of a QEMU that runs the tests: the default ones and the simulated SR-IOV PF.
#   configure --with-devices-x86_64=../../../rust/hw/virtio/pf-sriov/x86_64

include ../../../../configs/devices/x86_64-softmmu/default.mak

CONFIG_VIRTIO_PF_SRIOV=y
