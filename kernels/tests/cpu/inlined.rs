//! Kernels are whole: what they are made of has no function of its own.
//!
//! An operation on vectors is compiled for its instruction set. In a function that is not, such as a
//! closure that the compiler left alone, it can only be called, with its vectors in memory: attention
//! took four times as long, and every product was right.

use object::{Object, ObjectSymbol};

/// Long enough to be called: they take a block of codes at a time.
const CALLED: &str = "::dots_";

#[test]
fn kernels_call_no_operation_on_vectors() {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let program = object::File::parse(&*program).unwrap();
    let names: Vec<String> = program
        .symbols()
        .filter_map(|symbol| Some(format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?))))
        .collect();
    assert!(
        names.iter().any(|name| name.contains("sconce_kernels::cpu::kernels::portable::")),
        "the kernels have names"
    );
    let parts =
        ["gemm::", "rows::", "attend::"].map(|of| format!("sconce_kernels::cpu::kernels::{of}"));
    let is_part = |name: &str| {
        parts.iter().any(|part| name.contains(part))
            || name.contains("sconce_kernels::cpu::simd::") && !name.contains(CALLED)
    };

    let called: Vec<_> = names.iter().filter(|name| is_part(name)).collect();

    assert!(called.is_empty(), "{called:#?}");
}
