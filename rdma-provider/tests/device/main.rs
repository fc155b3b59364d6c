//! The provider on a real device, driven through its C boundary by two processes.
//!
//! The tests run where `scripts/vm` has made devices, by `rdma-provider/tests/inside`; build the library first. Each of them starts
//! this program once more as the second process.
//!
//! `streams`: bytes, credit, notifications; `faults`: what a device, a peer or a wire can do; `planted`: what none of
//! them should; `processes`: forks, threads, users;
//! `one`: where there is one device alone; `speed`: numbers. Below them `plugin` loads the library, `end` drives it, `other` is the second process.

mod end;
mod faults;
mod one;
mod other;
mod planted;
mod plugin;
mod processes;
mod speed;
mod streams;
