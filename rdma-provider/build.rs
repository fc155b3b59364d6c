//! How libtandem_rdma.so is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in [
        "-Wl,-soname,libtandem_rdma.so",
        // Its thread and its fork handlers stay: the library is never unloaded.
        "-Wl,-z,nodelete",
        "-Wl,-z,now",
    ] {
        println!("cargo::rustc-link-arg-cdylib={argument}");
    }
}
