/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What a daemon reads from /dev/cachefiles in on-demand mode, in both layouts.
 *
 * The names without a suffix are those of Linux 5.19 to 7.2, and mean the same:
 * a daemon written for the kernel's header compiles with this one.  Linux 7.3
 * ships no such header any more.  Documentation/protocol.rst has the rest of
 * the protocol.
 *
 * All numbers are in the byte order of the machine.
 */
#ifndef _LINUX_CACHEFILES_H
#define _LINUX_CACHEFILES_H

#include <linux/types.h>
#include <linux/ioctl.h>

/* No message is longer; a buffer of this size takes each of them. */
#define CACHEFILES_MSG_MAX_SIZE	1024

/* The values of @opcode, the same in both layouts. */
enum cachefiles_opcode {
	CACHEFILES_OP_OPEN,
	CACHEFILES_OP_CLOSE,
	CACHEFILES_OP_READ,
};

/**
 * struct cachefiles_msg - what every message begins with
 * @msg_id: what the answer has to name
 * @opcode: what is asked, CACHEFILES_OP_*
 * @len: bytes of the whole message, this header included
 * @object_id: which anonymous fd it is about: that of the OPEN's message for
 *	CLOSE and READ, and a new number in each OPEN
 * @data: the payload: struct cachefiles_open, nothing for CLOSE,
 *	struct cachefiles_read
 */
struct cachefiles_msg {
	__u32 msg_id;
	__u32 opcode;
	__u32 len;
	__u32 object_id;
	__u8  data[];
};

/**
 * struct cachefiles_open - the payload of CACHEFILES_OP_OPEN, in both layouts
 * @volume_key_size: bytes of the volume's key, its NUL included
 * @cookie_key_size: bytes of the cookie's key, which has no NUL of its own
 * @fd: the anonymous fd, in the process that has read the message
 * @flags: 0, or CACHEFILES_OPEN_* in the v5 layout
 * @data: the volume's key, its NUL, the cookie's key
 *
 * The answer is the command "copen <msg_id>,<size or -errno>", in v5
 * "cinit <id>,<size>", or "cinit <id>" to refuse.
 */
struct cachefiles_open {
	__u32 volume_key_size;
	__u32 cookie_key_size;
	__u32 fd;
	__u32 flags;
	__u8  data[];
};

/**
 * struct cachefiles_read - the payload of CACHEFILES_OP_READ
 * @off: where the missing range begins, in bytes
 * @len: bytes of the range
 *
 * The answer, once the range has been written to the anonymous fd, is the ioctl
 * below.
 */
struct cachefiles_read {
	__u64 off;
	__u64 len;
};

/*
 * The answer to a READ: an ioctl of the anonymous fd with the READ's @msg_id
 * itself, and no pointer to it, as the argument.
 */
#define CACHEFILES_IOC_READ_COMPLETE	_IOW(0x98, 1, int)

/*
 * The v5 layout ("bind ondemand v5"): the header has no @object_id, CLOSE and
 * READ name the fd instead, and a READ is answered with "cread <id>".  The
 * header has 12 bytes, so that the 64-bit numbers behind it are not aligned.
 */

/* Flag of an OPEN: the answer has to state the size.  It is always set. */
#define CACHEFILES_OPEN_WANT_CACHE_SIZE	(1 << 0)

/**
 * struct cachefiles_msg_v5 - what every message of the v5 layout begins with
 * @id: what the answer has to name
 * @opcode: what is asked, CACHEFILES_OP_*
 * @len: bytes of the whole message, this header included
 * @data: the payload: struct cachefiles_open, struct cachefiles_close_v5,
 *	struct cachefiles_read_v5
 */
struct cachefiles_msg_v5 {
	__u32 id;
	__u32 opcode;
	__u32 len;
	__u8  data[];
};

/**
 * struct cachefiles_close_v5 - the payload of CACHEFILES_OP_CLOSE in v5
 * @fd: the fd of the OPEN
 */
struct cachefiles_close_v5 {
	__u32 fd;
};

/**
 * struct cachefiles_read_v5 - the payload of CACHEFILES_OP_READ in v5
 * @off: where the missing range begins, in bytes
 * @len: bytes of the range
 * @fd: the fd of the OPEN
 * @pad: 0; the structure is sent whole, on a machine that aligns 64-bit numbers
 */
struct cachefiles_read_v5 {
	__u64 off;
	__u64 len;
	__u32 fd;
	__u32 pad;
};

#endif /* _LINUX_CACHEFILES_H */
