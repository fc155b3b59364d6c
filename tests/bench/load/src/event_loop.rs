//! The three ways in which a program with many sockets waits.

use std::io;
use std::os::fd::RawFd;

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wait {
    /// A thread a connection, asleep in read
    Blocking,
    /// epoll, level-triggered
    EpollLt,
    /// epoll, edge-triggered
    EpollEt,
    Poll,
}

pub struct Event {
    pub token: usize,
    pub writable: bool,
}

pub enum EventLoop {
    Epoll { set: RawFd, edge: bool, room: Vec<libc::epoll_event> },
    Poll { entries: Vec<libc::pollfd>, tokens: Vec<usize> },
}

impl EventLoop {
    pub fn new(wait: Wait) -> io::Result<Self> {
        match wait {
            Wait::Blocking => Err(io::Error::new(io::ErrorKind::InvalidInput, "blocking calls need no event loop")),
            Wait::Poll => Ok(Self::Poll { entries: Vec::new(), tokens: Vec::new() }),
            Wait::EpollLt | Wait::EpollEt => {
                // SAFETY: no memory is passed.
                let set = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
                let room = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
                Ok(Self::Epoll { set, edge: wait == Wait::EpollEt, room })
            }
        }
    }

    /// Whether a socket must be read until it is dry before it is waited for again.
    pub fn edge(&self) -> bool {
        matches!(self, Self::Epoll { edge: true, .. })
    }

    pub fn watch(&mut self, fd: RawFd, token: usize) -> io::Result<()> {
        match self {
            Self::Epoll { set, edge, .. } => control(*set, libc::EPOLL_CTL_ADD, fd, token, *edge, false),
            Self::Poll { entries, tokens } => {
                entries.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
                tokens.push(token);
                Ok(())
            }
        }
    }

    pub fn forget(&mut self, fd: RawFd) -> io::Result<()> {
        match self {
            Self::Epoll { set, .. } => control(*set, libc::EPOLL_CTL_DEL, fd, 0, false, false),
            Self::Poll { entries, tokens } => {
                if let Some(at) = entries.iter().position(|entry| entry.fd == fd) {
                    entries.swap_remove(at);
                    tokens.swap_remove(at);
                }
                Ok(())
            }
        }
    }

    /// Room to write is news, too, until `wanted` is false again. Edge-triggered sets tell it from the start.
    pub fn want_room(&mut self, fd: RawFd, token: usize, wanted: bool) -> io::Result<()> {
        match self {
            Self::Epoll { edge: true, .. } => Ok(()),
            Self::Epoll { set, .. } => control(*set, libc::EPOLL_CTL_MOD, fd, token, false, wanted),
            Self::Poll { entries, .. } => {
                if let Some(entry) = entries.iter_mut().find(|entry| entry.fd == fd) {
                    entry.events = libc::POLLIN | if wanted { libc::POLLOUT } else { 0 };
                }
                Ok(())
            }
        }
    }

    /// Sleeps until there is news. An error or a hang-up is told as both: the read or write that follows names it.
    pub fn wait(&mut self, news: &mut Vec<Event>) -> io::Result<()> {
        news.clear();
        match self {
            Self::Epoll { set, room, .. } => {
                // SAFETY: the kernel writes at most as many entries as the vector has.
                let ready = unsafe { libc::epoll_wait(*set, room.as_mut_ptr(), room.len() as i32, -1) };
                for event in &room[..uninterrupted(ready)?] {
                    let writable = event.events & !(libc::EPOLLIN as u32) != 0;
                    news.push(Event { token: event.u64 as usize, writable });
                }
            }
            Self::Poll { entries, tokens } => {
                // SAFETY: pointer and length are one vector's.
                let ready = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, -1) };
                if uninterrupted(ready)? > 0 {
                    for (entry, token) in entries.iter().zip(tokens).filter(|(entry, _)| entry.revents != 0) {
                        news.push(Event { token: *token, writable: entry.revents & !libc::POLLIN != 0 });
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        if let Self::Epoll { set, .. } = self {
            // SAFETY: the descriptor is this set's own and is not used again.
            unsafe { libc::close(*set) };
        }
    }
}

fn control(set: RawFd, operation: i32, fd: RawFd, token: usize, edge: bool, room: bool) -> io::Result<()> {
    let mut events = libc::EPOLLIN;
    if edge {
        events |= libc::EPOLLOUT | libc::EPOLLET;
    } else if room {
        events |= libc::EPOLLOUT;
    }
    let mut event = libc::epoll_event { events: events as u32, u64: token as u64 };
    // SAFETY: the kernel reads the event during the call.
    checked(unsafe { libc::epoll_ctl(set, operation, fd, &raw mut event) }).map(drop)
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn uninterrupted(result: i32) -> io::Result<usize> {
    match checked(result) {
        Ok(count) => Ok(count as usize),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}
