//! A file of tensors, read by position: threads share it without a lock.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::safetensors::Dtype as StoredDtype;
use sconce_kernels::cpu::{MatrixPart, ReadBytes};
use sconce_kernels::dtype::Dtype;

use super::{Error, Tensor, dummy, dummy::Contents, packed::Packed};

/// An open file and its length.
pub(super) struct WeightFile {
    path: PathBuf,
    file: File,
    len: u64,
}

/// Where a tensor of any type lies, as its file declares it. [`WeightFile::stored`] and [`Stored::made`] are
/// the only ways to one, so its bytes are in the file, or can be made.
#[derive(Clone)]
pub(super) struct Stored {
    place: Place,
    num_bytes: usize,
    pub(super) dtype: StoredDtype,
    pub(super) shape: Vec<usize>,
}

#[derive(Clone)]
enum Place {
    File { file: Arc<WeightFile>, offset: u64 },
    Nowhere(Contents),
}

/// Where one tensor lies, of a type that kernels know. [`WeightFile::span`], [`Span::random`] and
/// [`Span::packed`] are the only ways to one, so its bytes are in the file, or can be made.
pub(super) struct Span {
    source: Source,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    num_bytes: usize,
}

enum Source {
    File { file: Arc<WeightFile>, offset: u64 },
    Random { seed: u64 },
    Packed(Box<Packed>),
}

impl Source {
    /// From a byte of the tensor on. `None`: it does not lie there as it is read.
    fn part(&self, begin: usize) -> Option<Self> {
        match self {
            Self::File { file, offset } => {
                Some(Self::File { file: Arc::clone(file), offset: offset + begin as u64 })
            }
            // Not the same for each part.
            Self::Random { seed } => Some(Self::Random { seed: seed.wrapping_add(begin as u64) }),
            Self::Packed(_) => None,
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
        self.check_end(name, offset, num_bytes)?;
        let source = Source::File { file: Arc::clone(self), offset };
        Ok(Span { source, dtype, shape: shape.to_vec(), num_bytes })
    }

    fn check_end(&self, name: &str, offset: u64, num_bytes: usize) -> Result<(), Error> {
        let end = offset.checked_add(num_bytes as u64);
        if end.is_none_or(|end| end > self.len) {
            let reason = format!(
                "{name} has {num_bytes} bytes at offset {offset}, the file ends at {}",
                self.len
            );
            return Err(self.malformed(reason));
        }
        Ok(())
    }

    /// As [`Self::span`], of a type that kernels need not know.
    pub(super) fn stored(
        self: &Arc<Self>,
        name: &str,
        dtype: StoredDtype,
        shape: &[usize],
        offset: u64,
    ) -> Result<Stored, Error> {
        let Some(num_bytes) = stored_bytes(dtype, shape) else {
            let reason = format!("{name} has the impossible shape {shape:?}");
            return Err(self.malformed(reason));
        };
        self.check_end(name, offset, num_bytes)?;
        let place = Place::File { file: Arc::clone(self), offset };
        Ok(Stored { place, num_bytes, dtype, shape: shape.to_vec() })
    }
}

impl Stored {
    /// A tensor that lies nowhere. `None`: the shape is impossible.
    pub(super) fn made(contents: Contents, dtype: StoredDtype, shape: &[usize]) -> Option<Self> {
        let num_bytes = stored_bytes(dtype, shape)?;
        Some(Self { place: Place::Nowhere(contents), num_bytes, dtype, shape: shape.to_vec() })
    }

    /// As a tensor that kernels know, which must be one of floats.
    pub(super) fn span(&self, name: &str) -> Result<Span, Error> {
        let dtype = match self.dtype {
            StoredDtype::F32 => Dtype::F32,
            StoredDtype::F16 => Dtype::F16,
            StoredDtype::BF16 => Dtype::BF16,
            other => {
                let found = format!("of type {other:?}");
                return Err(Error::unsupported(name, found, "F32, F16, BF16"));
            }
        };
        match &self.place {
            Place::File { file, offset } => file.span(name, dtype, &self.shape, *offset),
            Place::Nowhere(_) => Err(self.malformed(format!("{name} is part of no matrix"))),
        }
    }

    /// Reads it.
    pub(super) fn read(&self) -> Result<Vec<u8>, Error> {
        self.piece(0, self.num_bytes)
    }

    fn piece(&self, offset: usize, len: usize) -> Result<Vec<u8>, Error> {
        match &self.place {
            Place::File { file, offset: begin } => file.read(begin + offset as u64, len as u64),
            Place::Nowhere(contents) => {
                let mut bytes = vec![0; len];
                contents.fill(offset, &mut bytes);
                Ok(bytes)
            }
        }
    }

    /// Fills `out` with the bytes from `offset` on.
    #[cfg(feature = "cuda")]
    pub(super) fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(out.len()) > self.num_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.place {
            Place::File { file, offset: begin } => {
                file.file.read_exact_at(out, begin + offset as u64)
            }
            Place::Nowhere(contents) => {
                contents.fill(offset, out);
                Ok(())
            }
        }
    }

    pub(super) fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its file, for errors.
    pub(super) fn malformed(&self, reason: impl Into<String>) -> Error {
        match &self.place {
            Place::File { file, .. } => file.malformed(reason),
            Place::Nowhere(_) => Error::malformed(Path::new("config.json"), reason),
        }
    }
}

fn stored_bytes(dtype: StoredDtype, shape: &[usize]) -> Option<usize> {
    let bits = shape.iter().try_fold(dtype.bitsize(), |bits, dim| bits.checked_mul(*dim))?;
    Some(bits.div_ceil(8))
}

impl Span {
    /// A tensor that lies nowhere: [`dummy`] makes its bytes. `None`: the shape is impossible.
    pub(super) fn random(name: &str, dtype: Dtype, shape: &[usize]) -> Option<Self> {
        let source = Source::Random { seed: dummy::seed(name) };
        let num_bytes = num_bytes(dtype, shape)?;
        Some(Self { source, dtype, shape: shape.to_vec(), num_bytes })
    }

    /// A tensor of blocks that are made of codes when they are read. `None`: the shape is impossible.
    pub(super) fn packed(packed: Packed) -> Option<Self> {
        let (dtype, shape) = (packed.dtype(), packed.shape().to_vec());
        let num_bytes = num_bytes(dtype, &shape)?;
        Some(Self { source: Source::Packed(Box::new(packed)), dtype, shape, num_bytes })
    }

    /// What it is made of, if it lies in several tensors.
    pub(super) fn as_packed(&self) -> Option<&Packed> {
        match &self.source {
            Source::Packed(packed) => Some(packed),
            Source::File { .. } | Source::Random { .. } => None,
        }
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

    /// As a matrix whose bytes another gives.
    pub(super) fn matrix_of<'a>(&self, data: &'a dyn ReadBytes) -> MatrixPart<'a> {
        let rows = self.shape.first().copied().unwrap_or(0);
        let cols = self.shape.last().copied().unwrap_or(0);
        MatrixPart { dtype: self.dtype, rows, cols, data }
    }

    /// Calls `with` with the bytes, or with as many pieces of them as told, from the beginning to the end:
    /// of each tensor that this is made of.
    pub(super) fn sample(
        &self,
        (max_bytes, num_pieces): (usize, usize),
        mut with: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let mut sample = |len: usize, read: &dyn Fn(usize, usize) -> Result<Vec<u8>, Error>| {
            if len <= max_bytes {
                with(&read(0, len)?);
                return Ok(());
            }
            let piece = max_bytes / num_pieces;
            for index in 0..num_pieces {
                with(&read((len - piece) / (num_pieces - 1) * index, piece)?);
            }
            Ok(())
        };
        match self.as_packed() {
            Some(packed) => packed.tensors().try_for_each(|tensor| {
                sample(tensor.num_bytes, &|offset, len| tensor.piece(offset, len))
            }),
            None => sample(self.num_bytes, &|offset, len| self.piece(offset, len)),
        }
    }

    /// The tensors that are stacked in it, one for each index of its first dimension. `None`: it is no
    /// stack, or its tensors can't be had apart.
    pub(super) fn unstack(&self) -> Option<Vec<Self>> {
        let (&num, shape) = self.shape.split_first()?;
        let num_bytes = self.num_bytes / num.max(1);
        let part = |index: usize| {
            Some(Self {
                source: self.source.part(index * num_bytes)?,
                dtype: self.dtype,
                shape: shape.to_vec(),
                num_bytes,
            })
        };
        (0..num).map(part).collect()
    }

    /// The tensors whose rows lie in it one after the other, so many of each. `None`: it has other rows,
    /// or they can't be had apart.
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
            Some(Self {
                source: self.source.part(self.num_bytes / all * begin)?,
                dtype: self.dtype,
                shape: [&[*rows], rest].concat(),
                num_bytes: self.num_bytes / all * rows,
            })
        };
        rows.iter().map(part).collect()
    }

    fn piece(&self, offset: usize, len: usize) -> Result<Vec<u8>, Error> {
        let len = len.min(self.num_bytes.saturating_sub(offset));
        match &self.source {
            Source::File { file, offset: begin } => file.read(begin + offset as u64, len as u64),
            Source::Random { seed } => {
                let mut bytes = vec![0; len];
                self.fill_random(*seed, offset, &mut bytes);
                Ok(bytes)
            }
            Source::Packed(packed) => {
                let mut bytes = vec![0; len];
                packed.unpack()?.read_at(offset, &mut bytes);
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
            Source::Packed(packed) => {
                packed.unpack().map_err(io::Error::other)?.read_at(offset, out);
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
