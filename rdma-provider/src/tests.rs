//! The header and the Rust types are one ABI; a table of another version or of too few bytes is refused.

use super::*;
use std::mem::offset_of;
use std::path::PathBuf;
use std::process::Command;

/// One line "what number" for each size, offset and constant; the C program prints the same from the header.
fn ours() -> Vec<(String, String, usize)> {
    let mut lines = Vec::new();
    macro_rules! layout {
        ($($rust:ty = $c:literal { $($field:ident),* })*) => { $(
            lines.push((format!("sizeof {}", $c), format!("sizeof(struct {})", $c), size_of::<$rust>()));
            $(lines.push((
                format!("{}.{}", $c, stringify!($field)),
                format!("offsetof(struct {}, {})", $c, stringify!($field)),
                offset_of!($rust, $field),
            ));)*
        )* };
    }
    layout! {
        Address = "tandem_address" { family, port, scope, bytes }
        Blob = "tandem_blob" { used, reserved, bytes }
        Memory = "tandem_memory" { id, bytes }
        Put = "tandem_put" { local_memory, local_offset, remote_memory, remote_offset, bytes, flags, token }
        Completion = "tandem_completion" { kind, status, token }
        Host = "tandem_host" { version, size, context, log, hide, close_hidden }
        Provider = "tandem_provider" {
            version, size, context, name, serves, create, bind, set_option, endpoint, connect, close_companion, register_memory,
            put, notify, poll, arm, wake
        }
    }
    for (name, value) in [
        ("TANDEM_PROVIDER_VERSION", VERSION as usize),
        ("TANDEM_BLOB_BYTES", BLOB_BYTES),
        ("TANDEM_PUT_NOTIFY", PUT_NOTIFY as usize),
        ("TANDEM_LANDED", LANDED as usize),
        ("TANDEM_NOTIFIED", NOTIFIED as usize),
        ("TANDEM_DEAD", DEAD as usize),
        ("sizeof TANDEM_PROVIDER_ENTRY", ENTRY.count_bytes() + 1),
    ] {
        lines.push((name.to_owned(), format!("({name})"), value));
    }
    lines
}

#[test]
fn the_header_has_the_same_layout() {
    let lines = ours();
    let prints: String =
        lines.iter().map(|(name, c, _)| format!("    printf(\"{name} %zu\\n\", (size_t){c});\n")).collect();
    let source =
        format!("#include <stdio.h>\n#include \"tandem_provider.h\"\nint main(void) {{\n{prints}    return 0;\n}}\n");
    let printed = compile_and_run(&source, "layout");
    let expected: String = lines.iter().map(|(name, _, value)| format!("{name} {value}\n")).collect();
    assert_eq!(printed, expected, "the header (left) and the Rust types (right)");
}

/// A table filled in by field name: a function of another type would not compile.
#[test]
fn the_header_has_the_same_types() {
    let source = r#"
#include <stdio.h>
#include <string.h>
#include "tandem_provider.h"
static int32_t serves(void *c, const struct tandem_address *l) { return 0; }
static int32_t create(void *c, struct tandem_companion **o) { return 0; }
static int32_t bind_(struct tandem_companion *c, const struct tandem_address *l, const struct tandem_address *r) { return 0; }
static int32_t set_option(struct tandem_companion *c, int32_t l, int32_t n, const void *v, uint32_t b) { return 0; }
static int32_t endpoint(struct tandem_companion *c, struct tandem_blob *b) { return 0; }
static int32_t connect_(struct tandem_companion *c, const struct tandem_blob *b) { return 0; }
static void close_(struct tandem_companion *c) {}
static int32_t memory(struct tandem_companion *c, void *b, uint64_t n, struct tandem_memory *m) { return 0; }
static int32_t put(struct tandem_companion *c, const struct tandem_put *p) { return 0; }
static int32_t notify(struct tandem_companion *c) { return 0; }
static int32_t poll_(struct tandem_companion *c, struct tandem_completion *p, uint32_t n) { return 0; }
static int32_t wake(struct tandem_companion *c, int32_t *d) { return 0; }
static const struct tandem_provider provider = {
    TANDEM_PROVIDER_VERSION, sizeof(struct tandem_provider), NULL, "none", serves, create, bind_, set_option, endpoint,
    connect_, close_, memory, put, notify, poll_, notify, wake,
};
const struct tandem_provider *tandem_provider_open(const struct tandem_host *host) {
    return host->version == TANDEM_PROVIDER_VERSION ? &provider : NULL;
}
int main(void) {
    struct tandem_host host = {TANDEM_PROVIDER_VERSION, sizeof host, NULL, NULL, NULL, NULL};
    printf("%s\n", tandem_provider_open(&host)->name);
    return strcmp(TANDEM_PROVIDER_ENTRY, "tandem_provider_open");
}
"#;
    assert_eq!(compile_and_run(source, "types"), "none\n");
}

fn compile_and_run(source: &str, name: &str) -> String {
    let folder = std::env::temp_dir().join(format!("tandem-rdma-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (file, program) = (folder.join("main.c"), folder.join("main"));
    std::fs::write(&file, source).unwrap();
    let include = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("include");
    let mut compile = Command::new("cc");
    compile.args(["-std=c11", "-Wall", "-Wno-unused-parameter", "-Werror", "-I"]).arg(include);
    let status = compile.arg(&file).arg("-o").arg(&program).status().expect("a C compiler is needed: cc");
    assert!(status.success(), "the header does not compile");
    let output = Command::new(&program).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

unsafe extern "C" fn log(_: *mut c_void, _: u32, _: *const c_char, _: usize) {}
unsafe extern "C" fn hide(_: *mut c_void, descriptor: i32) -> i32 {
    descriptor
}
unsafe extern "C" fn close_hidden(_: *mut c_void, _: i32) {}

#[test]
fn a_table_is_used_only_if_version_and_size_allow() {
    let mut host = Host {
        version: VERSION,
        size: size_of::<Host>() as u32,
        context: std::ptr::null_mut(),
        log,
        hide,
        close_hidden,
    };
    // SAFETY: null or a whole table on this frame, here and below.
    let accept = |host: *const Host| unsafe { Host::accept(host).map(|_| ()) };
    assert_eq!(accept(std::ptr::null()), Err(Mismatch::Absent));
    assert_eq!(accept(&host), Ok(()));
    host.size += 8;
    assert_eq!(accept(&host), Ok(()), "a longer table has functions that we don't know of");
    host.size -= 16;
    assert_eq!(accept(&host), Err(Mismatch::Short { theirs: host.size, needed: size_of::<Host>() }));
    host.version = VERSION + 1;
    assert_eq!(accept(&host), Err(Mismatch::Version { theirs: VERSION + 1 }));
}

#[test]
fn a_blob_that_lies_about_its_length_has_no_content() {
    let mut blob = Blob { used: 3, reserved: 0, bytes: [7; BLOB_BYTES] };
    assert_eq!(blob.content(), Some(&[7, 7, 7][..]));
    blob.used = BLOB_BYTES as u32 + 1;
    assert_eq!(blob.content(), None);
}
