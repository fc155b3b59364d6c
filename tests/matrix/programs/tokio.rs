//! An echo on tokio's multi-threaded runtime. usage: tandem-tokio server|client PORT

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main(worker_threads = 4)]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let [_, role, port] = &words[..] else { return Err("usage: tandem-tokio server|client PORT".into()) };
    let address = format!("127.0.0.1:{port}");
    if role == "server" { serve(&address).await } else { ask(address).await }
}

async fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let mut end = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = end.recv() => return Ok(()),
            stream = listener.accept() => {
                let mut stream = stream?.0;
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await?;
                    writer.shutdown().await
                });
            }
        }
    }
}

async fn ask(address: String) -> Result<()> {
    let tasks: Vec<_> = (0..16_u64).map(|number| tokio::spawn(talk(address.clone(), number))).collect();
    for task in tasks {
        println!("{:?}", task.await??);
    }
    Ok(())
}

/// A while in turns; then writes and reads at the same time, in pieces of all sizes. What comes must be what went.
async fn talk(address: String, number: u64) -> Result<(u64, usize)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    for at in 0..200_u8 {
        stream.write_all(&[at; 100]).await?;
        let mut back = [0; 100];
        stream.read_exact(&mut back).await?;
        if back != [at; 100] {
            return Err(format!("{number}: message {at} came as another").into());
        }
    }
    let mut state = number + 1;
    let data: Vec<u8> = (0..1_000_000 + number as usize * 777)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    let (mut reader, mut writer) = stream.into_split();
    let sent = data.clone();
    let sender = tokio::spawn(async move {
        let (mut from, mut size) = (0, 1);
        while from < sent.len() {
            let to = (from + size).min(sent.len());
            writer.write_all(&sent[from..to]).await?;
            (from, size) = (to, size % 60_000 * 2 + 1);
        }
        writer.shutdown().await
    });
    let mut got = Vec::new();
    reader.read_to_end(&mut got).await?;
    sender.await??;
    if got == data { Ok((number, got.len())) } else { Err(format!("{number}: what came is not what went").into()) }
}
