//! Where CUDA's libraries are, and loading them by path, so that cudarc then finds them by name.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

use super::Error;

/// Whether the driver can be loaded. Without it, any call of it panics.
pub(super) fn has_driver() -> bool {
    // SAFETY: the library is the driver, whose initializers are made to be run by any process.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// cuBLASLt, the newest first. What is used of it is the same in both.
pub(super) const CUBLASLT: [&str; 2] = ["libcublasLt.so.13", "libcublasLt.so.12"];

/// Loads a library of the toolkit, by one of its files' names.
pub(super) fn load(names: &[&'static str]) -> Result<(), Error> {
    static LOADED: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if names.iter().any(|name| loaded.contains(name)) {
        return Ok(());
    }
    let folders = folders();
    for name in names {
        let paths = folders.iter().map(|folder| folder.join(name)).filter(|path| path.is_file());
        // The last try is the system's own search: LD_LIBRARY_PATH, and what ldconfig knows.
        if paths.chain([PathBuf::from(name)]).any(|path| open(&path)) {
            loaded.push(name);
            return Ok(());
        }
    }
    let name = names.first().copied().unwrap_or_default();
    let searched: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Err(Error::NoLibrary { name, searched: searched.join(", ") })
}

fn open(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_encoded_bytes()) else { return false };
    // SAFETY: the string ends with a zero and lives; initializers of CUDA's libraries may run in any
    // process. The library stays loaded.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    !handle.is_null()
}

/// Folders that may hold libraries, the likeliest first: a setting, CUDA's own, those of pip's packages.
fn folders() -> Vec<PathBuf> {
    let setting = env::var_os("SCONCE_CUDA_LIBRARIES").map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let homes = homes.flat_map(|home| ["lib64", "lib"].map(|lib| Path::new(&home).join(lib)));
    // The Python that a shell finds, in an environment of its own or not.
    let path = env::var_os("PATH").unwrap_or_default();
    let pythons = env::split_paths(&path).filter(|folder| folder.join("python3").exists());
    let prefixes: Vec<_> = pythons.filter_map(|bin| Some(bin.parent()?.to_owned())).collect();
    let python = prefixes.into_iter().chain(["/usr/local", "/usr"].map(PathBuf::from));
    let python = python.flat_map(|prefix| nvidia_packages(&prefix.join("lib")));
    setting
        .into_iter()
        .chain(homes)
        .chain(installed(Path::new("/usr/local")))
        .chain(python)
        .collect()
}

/// `cuda*/lib64` of a folder, the newest first.
fn installed(folder: &Path) -> Vec<PathBuf> {
    let mut found = children(folder, "cuda");
    found.sort();
    found.reverse();
    found.into_iter().map(|cuda| cuda.join("lib64")).filter(|lib| lib.is_dir()).collect()
}

/// `python3*/{site,dist}-packages/nvidia/*/lib` of a folder.
fn nvidia_packages(folder: &Path) -> Vec<PathBuf> {
    let packages = ["site-packages", "dist-packages"];
    let pythons = children(folder, "python3");
    let roots = pythons.iter().flat_map(|python| packages.map(|name| python.join(name)));
    let parts = roots.flat_map(|root| children(&root.join("nvidia"), ""));
    parts.map(|part| part.join("lib")).filter(|lib| lib.is_dir()).collect()
}

fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_with_where_it_was_looked_for() {
        let error = load(&["libno-such-library.so.13", "libno-such-library.so.12"])
            .unwrap_err()
            .to_string();

        assert!(error.contains("libno-such-library.so.13"), "{error}");
    }

    #[test]
    fn folders_of_an_installation_and_of_pip_are_found() {
        let root = env::temp_dir().join(format!("sconce-cuda-{}", std::process::id()));
        for folder in
            ["cuda/lib64", "cuda-13.0/lib64", "lib/python3.12/site-packages/nvidia/cu13/lib"]
        {
            fs::create_dir_all(root.join(folder)).unwrap();
        }

        let installed = installed(&root);
        let packages = nvidia_packages(&root.join("lib"));

        assert_eq!(installed, [root.join("cuda-13.0/lib64"), root.join("cuda/lib64")]);
        assert_eq!(packages, [root.join("lib/python3.12/site-packages/nvidia/cu13/lib")]);
        fs::remove_dir_all(root).unwrap();
    }
}
