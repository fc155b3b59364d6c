//! Byte-exact torture of TCP connections: random sizes, calls, flags, threads, pauses and half-closes, both directions at
//! once, every byte checked. It knows nothing of Tandem: what it finds right natively must be right under the preload.
//!
//!   tandem-torture server PORT-FILE [options]        tandem-torture client PORT [options]       tandem-torture alone [options]
//!
//! Options: --connections N, --seed S, --parallel P (the client's), --seconds T (stop starting connections then),
//! --first I (index of the first connection), --peer-may-die (a connection may end early, never wrongly), --large,
//! --without-stop (the server goes on when this client is done), --address A (where the server is; 127.0.0.1), --patience T
//! (seconds after which a connection hangs; 45).
//! Exit 0 when all was right; 1 with a line for each wrong connection; 3 when one hangs. The seed is always printed.

mod connection;
mod pattern;
mod plan;
mod reader;
mod reassembly;
mod socket;
mod writer;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use connection::End;
use plan::Plan;

/// The index that tells the server to stop.
const STOP: u64 = u64::MAX;

pub struct Options {
    connections: u64,
    seed: u64,
    parallel: usize,
    seconds: Option<u64>,
    first: u64,
    peer_may_die: bool,
    large: bool,
    stop: bool,
    address: IpAddr,
    patience: Duration,
}

#[derive(Default)]
struct Tally {
    done: AtomicU64,
    bytes: AtomicU64,
    cut_short: AtomicU64,
    wrong: AtomicU64,
    under_way: Mutex<BTreeMap<(u64, &'static str), Instant>>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = Arc::new(options(&arguments));
    let tally = Arc::new(Tally::default());
    watch(&tally, &options);
    let word = |at: usize| arguments.get(at).map(String::as_str).unwrap_or_default();
    match word(0) {
        "server" => {
            let listener = TcpListener::bind((options.address, 0)).expect("bind");
            publish(word(1), listener.local_addr().expect("address").port());
            serve(&listener, &options, &tally);
        }
        "client" => drive(word(1).parse().expect("PORT"), &options, &tally),
        "alone" => {
            let listener = TcpListener::bind((options.address, 0)).expect("bind");
            let port = listener.local_addr().expect("address").port();
            let (theirs, counts) = (options.clone(), tally.clone());
            let server = thread::spawn(move || serve(&listener, &theirs, &counts));
            drive(port, &options, &tally);
            server.join().expect("server thread");
        }
        _ => {
            eprintln!("usage: tandem-torture server PORT-FILE|client PORT|alone [options]");
            exit(2);
        }
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "seed {}: {} ends of connections, {} bytes, {} cut short, {} wrong",
        options.seed,
        count(&tally.done),
        count(&tally.bytes),
        count(&tally.cut_short),
        count(&tally.wrong)
    );
    exit(i32::from(count(&tally.wrong) > 0));
}

fn options(arguments: &[String]) -> Options {
    fn of<T: std::str::FromStr>(arguments: &[String], name: &str) -> Option<T> {
        let at = arguments.iter().position(|argument| argument == name)?;
        let value = arguments.get(at + 1).and_then(|text| text.parse().ok());
        Some(value.unwrap_or_else(|| panic!("{name} wants a value")))
    }
    let value = |name: &str| of::<u64>(arguments, name);
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    Options {
        connections: value("--connections").unwrap_or(1000),
        seed: value("--seed").unwrap_or(1),
        parallel: value("--parallel").unwrap_or(16) as usize,
        seconds: value("--seconds"),
        first: value("--first").unwrap_or(0),
        peer_may_die: flag("--peer-may-die"),
        large: flag("--large"),
        stop: !flag("--without-stop"),
        address: of(arguments, "--address").unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        patience: Duration::from_secs(value("--patience").unwrap_or(45)),
    }
}

fn publish(path: &str, port: u16) {
    let aside = format!("{path}.new");
    std::fs::write(&aside, port.to_string()).expect("port file");
    std::fs::rename(&aside, path).expect("port file");
}

/// Accepts until told to stop; a thread a connection.
fn serve(listener: &TcpListener, options: &Arc<Options>, tally: &Arc<Tally>) {
    let stop = Arc::new(AtomicBool::new(false));
    let port = listener.local_addr().expect("address").port();
    let mut threads: Vec<thread::JoinHandle<()>> = Vec::new();
    loop {
        let (stream, _) = listener.accept().expect("accept");
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (options, tally, stop) = (options.clone(), tally.clone(), stop.clone());
        threads.push(spawn(move || {
            let Ok(index) = connection::greeted(&stream) else {
                if !options.peer_may_die {
                    complain(&tally, options.seed, "server", "no greeting");
                }
                return;
            };
            if index == STOP {
                stop.store(true, Ordering::SeqCst);
                drop(TcpStream::connect((options.address, port))); // wakes the accept
                return;
            }
            run(stream, End::Server, index, &options, &tally);
        }));
        threads.retain(|thread| !thread.is_finished());
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Makes the connections, `parallel` at a time, then tells the server to stop.
fn drive(port: u16, options: &Arc<Options>, tally: &Arc<Tally>) {
    let next = Arc::new(AtomicU64::new(options.first));
    let deadline = options.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let workers: Vec<_> = (0..options.parallel)
        .map(|_| {
            let (options, tally, next) = (options.clone(), tally.clone(), next.clone());
            spawn(move || {
                while deadline.is_none_or(|deadline| Instant::now() < deadline) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= options.first + options.connections {
                        break;
                    }
                    let stream = TcpStream::connect((options.address, port)).expect("connect");
                    connection::greet(&stream, index).expect("greeting");
                    run(stream, End::Client, index, &options, &tally);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("worker");
    }
    if options.stop {
        let stream = TcpStream::connect((options.address, port)).expect("connect");
        connection::greet(&stream, STOP).expect("greeting");
    }
}

fn run(stream: TcpStream, end: End, index: u64, options: &Options, tally: &Tally) {
    let plan = Plan::new(options.seed, index, options.large);
    let key = (index, end.name());
    let under_way = || tally.under_way.lock().unwrap_or_else(PoisonError::into_inner);
    under_way().insert(key, Instant::now());
    let outcome = connection::run(stream, end, &plan, options.peer_may_die);
    under_way().remove(&key);
    match outcome {
        Ok(traffic) => {
            tally.bytes.fetch_add(traffic.bytes, Ordering::Relaxed);
            tally.cut_short.fetch_add(u64::from(traffic.cut_short), Ordering::Relaxed);
        }
        Err(what) => complain(tally, options.seed, end.name(), &format!("connection {index}: {what}\n  {plan:?}")),
    }
    tally.done.fetch_add(1, Ordering::Relaxed);
}

fn complain(tally: &Tally, seed: u64, end: &str, what: &str) {
    if tally.wrong.fetch_add(1, Ordering::Relaxed) < 10 {
        println!("WRONG: seed {seed}, {end}, {what}");
    }
}

/// A connection that takes too long is shown, and the program ends.
fn watch(tally: &Arc<Tally>, options: &Options) {
    let (tally, seed, patience) = (tally.clone(), options.seed, options.patience);
    spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            let under_way = tally.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            let late: Vec<_> = under_way.iter().filter(|(_, since)| since.elapsed() > patience).collect();
            if !late.is_empty() {
                for ((index, end), _) in late.iter().take(8) {
                    println!("HANGS: seed {seed}, {end}, connection {index}");
                }
                // Time for whoever started this to look at the threads.
                thread::sleep(Duration::from_secs(std::env::var_os("TORTURE_LINGER").map_or(0, |_| 3600)));
                exit(3);
            }
        }
    });
}

pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(256 << 10).spawn(body).expect("thread")
}
