//! nginx with files of every size, and curl that fetches them.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::process::{Launch, Scratch, system_program};

/// A server at `place` (address and port) of these files, each so many bytes of noise.
pub fn launch(scratch: &Scratch, place: &str, sendfile: &str, master: &str, files: &[(&str, usize)]) -> Launch {
    let folder = scratch.path();
    for name in ["www", "logs", "tmp"] {
        fs::create_dir_all(folder.join(name)).expect("directory");
    }
    let largest = files.iter().map(|(_, size)| *size).max().unwrap_or(0);
    let noise = noise(largest);
    for (name, size) in files {
        fs::write(folder.join("www").join(name), &noise[..*size]).expect("file to serve");
    }
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/tmp/{kind}; ", folder.display()))
        .concat();
    let configuration = format!(
        "user root; worker_processes 2; {master} pid {0}/nginx.pid; error_log {0}/logs/error.log warn; events {{ worker_connections 256; }}
         http {{ access_log off; {temporary} sendfile {sendfile}; tcp_nopush on; keepalive_requests 1000; client_max_body_size 200m;
         server {{ listen {place}; root {0}/www; }} }}\n",
        folder.display(),
    );
    let path = scratch.write("nginx.conf", configuration);
    let launch = Launch::new("nginx", system_program("nginx")).arg("-p").arg(folder).arg("-c").arg(path);
    launch.args(["-g", "daemon off;"])
}

fn noise(size: usize) -> Vec<u8> {
    let mut noise = vec![0_u8; size.next_multiple_of(8)];
    let mut state = 88_172_645_463_325_252_u64;
    for word in noise.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    noise
}

/// One curl for all of these, one after the other, and where it puts them.
pub fn fetch(scratch: &Scratch, place: &str, what: &str, files: &[&str]) -> (Launch, Vec<PathBuf>) {
    let mut launch = Launch::new(what, system_program("curl")).args(["-sS", "--fail", "--max-time", "120"]);
    let mut outputs = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let output = scratch.file(&format!("{what}-{at}"));
        launch = launch.arg("-o").arg(&output).arg(format!("http://{place}/{file}"));
        outputs.push(output);
    }
    // Connects tell whether keep-alive was kept.
    (launch.args(["-w", "%{http_code} %{size_download} connects %{num_connects}\\n"]), outputs)
}

/// The files' sha256; they go.
pub fn sums(files: &[PathBuf]) -> String {
    let mut text = String::new();
    for file in files {
        let output = Command::new("sha256sum").arg(file).output().expect("sha256sum runs");
        let _ = write!(text, "{} ", String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default());
        let _ = fs::remove_file(file);
    }
    text
}

/// Lines of its log that must not be there.
pub fn alarms(scratch: &Scratch) -> Vec<String> {
    let errors = fs::read_to_string(scratch.file("logs/error.log")).unwrap_or_default();
    let alarming = errors.lines().filter(|line| line.contains("[alert]") || line.contains("[crit]"));
    alarming.map(str::to_owned).collect()
}
