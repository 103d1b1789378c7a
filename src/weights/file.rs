//! A file of tensors, read by position: threads share it without a lock.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use sconce_kernels::cpu::{MatrixPart, ReadBytes};
use sconce_kernels::dtype::Dtype;

use super::{Error, Tensor, dummy};

/// An open file and its length.
pub(super) struct WeightFile {
    path: PathBuf,
    file: File,
    len: u64,
}

/// Where one tensor lies. [`WeightFile::span`] and [`Span::random`] are the only ways to one, so its
/// bytes are in the file, or can be made.
pub(super) struct Span {
    source: Source,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    num_bytes: usize,
}

enum Source {
    File { file: Arc<WeightFile>, offset: u64 },
    Random { seed: u64 },
}

impl Source {
    /// From a byte of the tensor on.
    fn part(&self, begin: usize) -> Self {
        match self {
            Self::File { file, offset } => {
                Self::File { file: Arc::clone(file), offset: offset + begin as u64 }
            }
            // Not the same for each part.
            Self::Random { seed } => Self::Random { seed: seed.wrapping_add(begin as u64) },
        }
    }
}

impl WeightFile {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::malformed(path, "it is not a regular file"));
        }
        Ok(Self { path: path.to_owned(), file, len: metadata.len() })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn malformed(&self, reason: impl Into<String>) -> Error {
        Error::malformed(&self.path, reason)
    }

    /// Reads the first `len` bytes, fewer when the file ends before.
    pub(super) fn head(&self, len: u64) -> Result<Vec<u8>, Error> {
        self.read(0, len.min(self.len))
    }

    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
        let len = usize::try_from(len).map_err(|_| self.malformed("larger than the memory"))?;
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        Ok(bytes)
    }

    /// Checks that a tensor of `shape` fits into the file at `offset`.
    pub(super) fn span(
        self: &Arc<Self>,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        offset: u64,
    ) -> Result<Span, Error> {
        let Some(num_bytes) = num_bytes(dtype, shape) else {
            let reason = format!(
                "{name} of type {dtype:?} has the impossible shape {shape:?} (blocks of {})",
                dtype.block_len()
            );
            return Err(self.malformed(reason));
        };
        let end = offset.checked_add(num_bytes as u64);
        if end.is_none_or(|end| end > self.len) {
            let reason = format!(
                "{name} has {num_bytes} bytes at offset {offset}, the file ends at {}",
                self.len
            );
            return Err(self.malformed(reason));
        }
        let source = Source::File { file: Arc::clone(self), offset };
        Ok(Span { source, dtype, shape: shape.to_vec(), num_bytes })
    }
}

impl Span {
    /// A tensor that lies nowhere: [`dummy`] makes its bytes. `None`: the shape is impossible.
    pub(super) fn random(name: &str, dtype: Dtype, shape: &[usize]) -> Option<Self> {
        let source = Source::Random { seed: dummy::seed(name) };
        let num_bytes = num_bytes(dtype, shape)?;
        Some(Self { source, dtype, shape: shape.to_vec(), num_bytes })
    }

    fn fill_random(&self, seed: u64, offset: usize, out: &mut [u8]) {
        if self.dtype.block_len() == 1 {
            dummy::fill(seed, self.shape.len(), offset, out);
        } else {
            dummy::fill_blocks(seed, self.dtype.block_bytes(), offset, out);
        }
    }

    /// Reads it.
    pub(super) fn tensor(&self) -> Result<Tensor, Error> {
        Ok(Tensor { dtype: self.dtype, shape: self.shape.clone(), data: self.read()? })
    }

    /// As a matrix that is left in the file.
    pub(super) fn matrix(&self) -> MatrixPart<'_> {
        let rows = self.shape.first().copied().unwrap_or(0);
        let cols = self.shape.last().copied().unwrap_or(0);
        MatrixPart { dtype: self.dtype, rows, cols, data: self }
    }

    /// The tensors that are stacked in it, one for each index of its first dimension.
    pub(super) fn unstack(self) -> Vec<Self> {
        let Some((&num, shape)) = self.shape.split_first() else { return vec![self] };
        let num_bytes = self.num_bytes / num.max(1);
        let part = |index: usize| Self {
            source: self.source.part(index * num_bytes),
            dtype: self.dtype,
            shape: shape.to_vec(),
            num_bytes,
        };
        (0..num).map(part).collect()
    }

    /// The tensors whose rows lie in it one after the other, so many of each. `None`: it has other rows.
    pub(super) fn split_rows(&self, rows: &[usize]) -> Option<Vec<Self>> {
        let (&all, rest) = self.shape.split_first()?;
        if all == 0
            || rows.iter().try_fold(0, |sum: usize, rows| sum.checked_add(*rows)) != Some(all)
        {
            return None;
        }
        let mut first = 0;
        let part = |rows: &usize| {
            let begin = first;
            first += rows;
            Self {
                source: self.source.part(self.num_bytes / all * begin),
                dtype: self.dtype,
                shape: [&[*rows], rest].concat(),
                num_bytes: self.num_bytes / all * rows,
            }
        };
        Some(rows.iter().map(part).collect())
    }

    /// Bytes of the tensor.
    pub(super) fn len(&self) -> usize {
        self.num_bytes
    }

    /// Reads some of the tensor's bytes.
    pub(super) fn piece(&self, offset: usize, len: usize) -> Result<Vec<u8>, Error> {
        let len = len.min(self.num_bytes.saturating_sub(offset));
        match &self.source {
            Source::File { file, offset: begin } => file.read(begin + offset as u64, len as u64),
            Source::Random { seed } => {
                let mut bytes = vec![0; len];
                self.fill_random(*seed, offset, &mut bytes);
                Ok(bytes)
            }
        }
    }

    /// Reads the tensor's bytes.
    pub(super) fn read(&self) -> Result<Vec<u8>, Error> {
        self.piece(0, self.num_bytes)
    }
}

impl ReadBytes for Span {
    fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        match &self.source {
            Source::File { file, offset: begin } => {
                file.file.read_exact_at(out, begin + offset as u64)
            }
            Source::Random { seed } => {
                self.fill_random(*seed, offset, out);
                Ok(())
            }
        }
    }
}

/// `None` for a dimension of zero, rows that are no multiple of a block, and overflow.
fn num_bytes(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let (row, outer) = shape.split_last()?;
    if shape.contains(&0) || !row.is_multiple_of(dtype.block_len()) {
        return None;
    }
    let row_bytes = (row / dtype.block_len()).checked_mul(dtype.block_bytes())?;
    outer.iter().try_fold(row_bytes, |bytes, dim| bytes.checked_mul(*dim))
}
