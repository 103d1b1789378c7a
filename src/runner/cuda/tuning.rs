//! Finds at the start which algorithms compute the model's matrix products fastest, and keeps what was found in a
//! file for the next start.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use sconce_kernels::cuda::{PlanGrid, Tuned};

use super::batch::{Layout, Room};
use super::graphs::{Key, Part};
use super::sampling::Needs;
use super::{CudaRunner, LoadError};

/// What is measured at a start takes no longer; a later start goes on.
const MAX_TIME: Duration = Duration::from_secs(5);

/// A file of algorithms is smaller: 64k of them.
const MAX_FILE_BYTES: u64 = 32 << 20;

impl CudaRunner {
    /// Computes a step of nothing but padding of each size that there will be graphs of, and of the most tokens
    /// that a step may have, while new shapes are measured.
    pub(super) fn tune(&mut self, path: &Path) -> Result<(), LoadError> {
        let failed = |source| LoadError::Tuning { path: path.to_owned(), source };
        let tuned = read(path).map_err(failed)?;
        self.decoder.matmul().begin_tuning(tuned, MAX_TIME);
        let computed = self.compute_sizes();
        let tuned = self.decoder.matmul().end_tuning().unwrap_or_default();
        computed?;
        let (found, timed) = (tuned.num_found(), tuned.num_timed());
        tracing::info!(found, timed, file = %path.display(), "algorithms of matrix products");
        match timed {
            0 => Ok(()),
            _ => write(path, &tuned.to_text()).map_err(failed),
        }
    }

    fn compute_sizes(&mut self) -> Result<(), LoadError> {
        let needs = Needs::default();
        for size in self.graphs.sizes().to_vec() {
            let layout = Layout::new(Room::of_graph(size));
            let key = Key { part: Part::Step, size, needs };
            self.warm_up(key, &layout).map_err(LoadError::FirstStep)?;
        }
        let tokens = self.limits.max_num_batched_tokens as usize;
        let layout = Layout::new(Room { tokens, ..Room::of_graph(1) });
        let padding = self.send_padding(&layout);
        padding
            .and_then(|()| self.compute(&layout, PlanGrid::default(), needs))
            .map_err(LoadError::FirstStep)?;
        Ok(self.device.synchronize()?)
    }
}

/// What the file has; nothing if there is none yet.
fn read(path: &Path) -> io::Result<Tuned> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Tuned::default()),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Tuned::parse(&text).map_err(io::Error::other)
}

/// Replaces the file, so that whoever reads it meanwhile has all of the one or of the other.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
    let own = format!(".{}.{}", name.to_string_lossy(), std::process::id());
    let temporary = path.with_file_name(own);
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_begun_and_replaced_and_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("algorithms");
        assert_eq!(read(&path).unwrap(), Tuned::default());

        write(&path, &Tuned::default().to_text()).unwrap();
        write(&path, &Tuned::default().to_text()).unwrap();
        assert_eq!(read(&path).unwrap(), Tuned::default());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        fs::write(&path, "something else").unwrap();
        assert!(read(&path).is_err());
        assert!(write(Path::new("/"), "").is_err());
    }
}
