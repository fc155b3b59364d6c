//! The server: a thread a connection, one connection after the other, or an event loop for all.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

use anyhow::Context;

use crate::connection::{Connection, Turn};
use crate::event_loop::{Event, EventLoop, Wait};
use crate::orders::say;
use crate::wire::{Asked, REQUEST_BYTES, Request, drain, pour, read_whole};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value = "blocking")]
    wait: Wait,
    /// Echoes messages of this size, one connection after the other, without waiting to be told what is wanted
    #[arg(long)]
    plain: Option<usize>,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("bind")?;
    // SAFETY: no memory is passed. Listening again only changes the backlog: std's own is too short for 8,000 clients.
    unsafe { libc::listen(listener.as_raw_fd(), 4096) };
    say(&listener.local_addr()?.port().to_string())?;
    end_with_stdin();
    match (options.plain, options.wait) {
        (Some(size), _) => one_after_the_other(&listener, size),
        (None, Wait::Blocking) => a_thread_each(&listener),
        (None, wait) => all_in_one_loop(&listener, wait),
    }
}

fn end_with_stdin() {
    thread::spawn(|| {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

fn one_after_the_other(listener: &TcpListener, size: usize) -> anyhow::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        let (mut stream, _) = listener.accept().context("accept")?;
        stream.set_nodelay(true)?;
        // A client that breaks off is the client's affair.
        while let Ok(true) = read_whole(&mut stream, &mut buffer) {
            if stream.write_all(&buffer).is_err() {
                break;
            }
        }
    }
}

fn a_thread_each(listener: &TcpListener) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().context("accept")?;
        stream.set_nodelay(true)?;
        thread::Builder::new().stack_size(128 << 10).spawn(move || {
            if let Err(error) = as_requested(stream) {
                eprintln!("tandem-load serve: {error}");
            }
        })?;
    }
}

fn as_requested(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; REQUEST_BYTES];
    if !read_whole(&mut stream, &mut bytes)? {
        return Ok(());
    }
    let request = Request::from_bytes(&bytes)?;
    let mut buffer = vec![b'x'; request.size];
    match request.load {
        Asked::Echo => {
            while read_whole(&mut stream, &mut buffer)? {
                stream.write_all(&buffer)?;
            }
        }
        Asked::Up => {
            let total = drain(&mut stream, request.size)?;
            stream.write_all(&total.to_le_bytes())?;
        }
        Asked::Down => {
            pour(&mut stream, &buffer, request.time)?;
            stream.shutdown(Shutdown::Write)?;
            // Stays until the client has gone: a close with bytes unread would reset the connection.
            drain(&mut stream, 1)?;
        }
        Asked::Both => {
            let mut back = stream.try_clone()?;
            let sender = thread::spawn(move || {
                pour(&mut back, &buffer, request.time)?;
                back.shutdown(Shutdown::Write)
            });
            drain(&mut stream, request.size)?;
            sender.join().map_err(|_| io::Error::other("the sending thread panicked"))??;
        }
    }
    Ok(())
}

/// Token 0 is the listener; a connection's token is its descriptor.
fn all_in_one_loop(listener: &TcpListener, wait: Wait) -> anyhow::Result<()> {
    let mut events = EventLoop::new(wait)?;
    let mut news = Vec::new();
    let mut visitors: HashMap<usize, Visitor> = HashMap::new();
    listener.set_nonblocking(true)?;
    events.watch(listener.as_raw_fd(), 0)?;
    loop {
        events.wait(&mut news)?;
        for event in &news {
            if event.token == 0 {
                welcome(listener, &mut events, &mut visitors)?;
                continue;
            }
            let Some(visitor) = visitors.get_mut(&event.token) else { continue };
            match visitor.serve(&mut events, event) {
                Ok(true) => {}
                gone => {
                    if let Err(error) = gone {
                        eprintln!("tandem-load serve: {error}");
                    }
                    events.forget(event.token as i32)?;
                    visitors.remove(&event.token);
                }
            }
        }
    }
}

fn welcome(listener: &TcpListener, events: &mut EventLoop, visitors: &mut HashMap<usize, Visitor>) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        let token = stream.as_raw_fd() as usize;
        events.watch(stream.as_raw_fd(), token)?;
        visitors
            .insert(token, Visitor { connection: Connection::new(stream, Vec::new(), REQUEST_BYTES)?, asked: false });
    }
}

struct Visitor {
    connection: Connection,
    asked: bool,
}

impl Visitor {
    /// False: the client has gone.
    fn serve(&mut self, events: &mut EventLoop, event: &Event) -> io::Result<bool> {
        let fd = event.token as i32;
        if event.writable && self.connection.go_on_sending()? {
            events.want_room(fd, event.token, false)?;
        }
        match self.connection.listen(self.asked && events.edge())? {
            Turn::Ended => Ok(false),
            Turn::Waiting => Ok(true),
            Turn::Message if self.asked => {
                if !self.connection.echo()? {
                    events.want_room(fd, event.token, true)?;
                }
                Ok(true)
            }
            Turn::Message => self.hear_request(events),
        }
    }

    fn hear_request(&mut self, events: &mut EventLoop) -> io::Result<bool> {
        let mut bytes = [0; REQUEST_BYTES];
        bytes.copy_from_slice(self.connection.message());
        let request = Request::from_bytes(&bytes)?;
        if request.load != Asked::Echo {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this server has one loop for all: only echo"));
        }
        self.connection.expect(request.size);
        self.asked = true;
        // What came right behind the request has had its edge.
        let fd = self.connection.stream().as_raw_fd();
        self.serve(events, &Event { token: fd as usize, writable: false })
    }
}
