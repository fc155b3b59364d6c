//! nginx and curl: 1 B, 1 MiB, 100 MiB, keep-alive, sha256, with sendfile and without.

use std::fmt::Write;
use std::fs;

use tandem_tests::apps::{Field, each_way};
use tandem_tests::process::system_program;
use tandem_tests::{Launch, Running, Way};

use crate::whole;

fn server(field: &Field, sendfile: &str, master: &str) -> Running {
    let folder = field.scratch.path();
    for name in ["www", "logs", "tmp"] {
        fs::create_dir_all(folder.join(name)).expect("directory");
    }
    let mut noise = vec![0_u8; 100 << 20];
    let mut state = 88_172_645_463_325_252_u64;
    for word in noise.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    for (name, size) in [("1B", 1), ("1MiB", 1 << 20), ("100MiB", 100 << 20)] {
        fs::write(folder.join("www").join(name), &noise[..size]).expect("file to serve");
    }
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/tmp/{kind}; ", folder.display()))
        .concat();
    let configuration = format!(
        "user root; worker_processes 2; {master} pid {0}/nginx.pid; error_log {0}/logs/error.log warn; events {{ worker_connections 256; }}
         http {{ access_log off; {temporary} sendfile {sendfile}; tcp_nopush on; keepalive_requests 1000; client_max_body_size 200m;
         server {{ listen 127.0.0.1:{1}; root {0}/www; }} }}\n",
        folder.display(),
        field.port
    );
    let path = field.scratch.write("nginx.conf", configuration);
    let launch = Launch::new("nginx", system_program("nginx")).arg("-p").arg(folder).arg("-c").arg(path);
    field.serve(launch.args(["-g", "daemon off;"]))
}

fn fetch(field: &Field, what: &str, files: &[&str]) -> Vec<String> {
    let mut launch = Launch::new(what, system_program("curl")).args(["-sS", "--fail", "--max-time", "60"]);
    let mut outputs = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let output = field.scratch.file(&format!("{what}-{at}"));
        launch = launch.arg("-o").arg(&output).arg(format!("http://127.0.0.1:{}/{file}", field.port));
        outputs.push(output);
    }
    // Connects tell whether keep-alive was kept.
    let launch = launch.args(["-w", "%{http_code} %{size_download} connects %{num_connects}\\n"]);
    let mut seen = whole(what, &field.ask(launch, 90));
    seen.push(sums(&outputs));
    seen
}

fn sums(files: &[std::path::PathBuf]) -> String {
    let mut text = String::new();
    for file in files {
        let output = std::process::Command::new("sha256sum").arg(file).output().expect("sha256sum runs");
        let _ = write!(text, "{} ", String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default());
        let _ = fs::remove_file(file);
    }
    text
}

fn run(test: &str, sendfile: &str, master: &str) {
    each_way(test, &Way::FOUR, |field| {
        let server = server(field, sendfile, master);
        let mut seen = fetch(field, "one", &["1B"]);
        seen.extend(fetch(field, "keep-alive", &[["1B", "1MiB"]; 12].concat()));
        seen.extend(fetch(field, "large", &["100MiB"]));
        seen.extend(fetch(field, "mixed", &["1B", "100MiB", "1B", "none", "1MiB"]));
        let errors = fs::read_to_string(field.scratch.file("logs/error.log")).unwrap_or_default();
        let alarming = errors.lines().filter(|line| line.contains("[alert]") || line.contains("[crit]"));
        seen.push(format!("alarming log lines {:?}", alarming.collect::<Vec<_>>()));
        seen.push(field.stop(server, libc::SIGQUIT));
        seen
    });
}

#[test]
fn nginx_curl_sendfile_on() {
    run("nginx_curl_sendfile_on", "on", "");
}

#[test]
fn nginx_curl_sendfile_off() {
    run("nginx_curl_sendfile_off", "off", "");
}

#[test]
fn nginx_curl_single_process() {
    run("nginx_curl_single_process", "off", "master_process off;");
}
