// SPDX-License-Identifier: GPL-2.0

//! What crosses between the kernel and the daemon: messages one way, commands the other.
//!
//! Lives here: the two layouts of a request ([`message`]), the grammar of the lines that a daemon
//! writes ([`command`], [`command_error`]), the kernel's way of reading numbers ([`number`]) and the error numbers
//! that both sides name ([`errno`]).
//!
//! Never here: a kernel type, an allocation, a lock, a raw pointer, or any knowledge of what a cache
//! does with a command.  The kernel module and the user-space crates compile these same files, so
//! they use nothing but `core`, and reach one another by `super::` only.

pub mod command;
pub mod command_error;
pub mod errno;
pub mod message;
pub mod number;
