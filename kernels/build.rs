//! Compiles `cuda/*.cu` into one fat binary each, with code for several generations of GPUs, when the
//! feature `cuda` is on and nvcc can be found. Without nvcc the crate is built without kernels, and says
//! so when a GPU is asked for.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

/// Ampere, Hopper with its own instructions, Blackwell for servers and for desks.
const CHIPS: &str = "80,90a,100,120";

fn main() -> Result<(), String> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cuda");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "SCONCE_CUDA_CHIPS", "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let sources = sources(Path::new("cuda"))?;
    let images = match find_nvcc() {
        Some(nvcc) => compile_all(&nvcc, &sources, &out)?,
        None => {
            println!(
                "cargo:warning=no nvcc was found (NVCC, CUDA_HOME, CUDA_PATH, PATH, \
                 /usr/local/cuda): GPU kernels are missing from this build"
            );
            Vec::new()
        }
    };
    let entries = images.iter().map(|image| format!("    include_bytes!({image:?}),\n"));
    let list = format!("const IMAGES: &[&[u8]] = &[\n{}];\n", entries.collect::<String>());
    fs::write(out.join("images.rs"), list).map_err(|error| error.to_string())
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    files.sort();
    Ok(files)
}

fn find_nvcc() -> Option<PathBuf> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let homes = homes.map(|home| Path::new(&home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = env::split_paths(&path).map(|folder| folder.join("nvcc")).collect();
    let usual = Path::new("/usr/local/cuda/bin/nvcc").to_owned();
    named.into_iter().chain(homes).chain(on_path).chain([usual]).find(|path| path.is_file())
}

/// Each file is compiled by itself: a change costs one file's time.
fn compile_all(nvcc: &Path, sources: &[PathBuf], out: &Path) -> Result<Vec<PathBuf>, String> {
    let chips = env::var("SCONCE_CUDA_CHIPS").unwrap_or_else(|_| CHIPS.to_owned());
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(2);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut images = Vec::new();
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            images.push(compile(nvcc, source, &chips, out)?);
        }
        Ok::<_, String>(images)
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut images = Vec::new();
    for result in results {
        images.extend(result.map_err(|_| "a thread panicked".to_owned())??);
    }
    images.sort();
    Ok(images)
}

fn compile(nvcc: &Path, source: &Path, chips: &str, out: &Path) -> Result<PathBuf, String> {
    let name = source.file_stem().unwrap_or_default();
    let image = out.join(name).with_extension("fatbin");
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-O3", "-std=c++17", "-Xptxas=-v", "-Xfatbin=-compress-all"]);
    for chip in chips.split(',') {
        command.arg(format!("-gencode=arch=compute_{chip},code=sm_{chip}"));
    }
    // Chips that are not named compile the oldest's intermediate code when they load it.
    let oldest: String =
        chips.split(',').next().unwrap_or("80").chars().filter(char::is_ascii_digit).collect();
    command.arg(format!("-gencode=arch=compute_{oldest},code=compute_{oldest}"));
    command.arg("-o").arg(&image).arg(source);
    let Output { status, stderr, .. } =
        command.output().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    let said = String::from_utf8_lossy(&stderr);
    if !status.success() {
        return Err(format!("nvcc failed on {}:\n{said}", source.display()));
    }
    // `tests/cuda/resources.py` reads what each kernel takes.
    fs::write(image.with_extension("ptxas"), said.as_bytes()).map_err(|error| error.to_string())?;
    Ok(image)
}
