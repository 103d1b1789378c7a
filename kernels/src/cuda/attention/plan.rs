//! What one step's attention has to do, as lists that kernels read from the device's memory: so a captured
//! graph serves any lengths.
//!
//! Rows of few tokens, which decode, are cut into chunks of keys, which different processors take
//! (FlashDecoding; Dao et al., 2023); rows of more tokens into tiles of queries. Chunks have a fixed length
//! and begin at multiples of it, so how a row is computed depends on the row alone: what else is in the
//! batch doesn't change a bit of its result. Only a batch whose chunks would be more than there is room for
//! gets longer ones.

use crate::{Error, check_index, check_multiple};

/// Rows of at most so many tokens are decoded: one token, and drafts.
const MAX_DECODE_TOKENS: usize = 8;

/// Packed queries that decoding takes at once.
pub(super) const DECODE_TILE: usize = 16;

/// Keys of a chunk.
const CHUNK: usize = 256;

/// Words of a record.
const RECORD: usize = 8;

/// Words before the records: number and begin of each list, and then the most queries of a merge.
const HEADER: usize = 8;
const MERGE_QUERIES: usize = 6;

/// Where the result goes that is not a partial one.
const NOWHERE: u32 = u32::MAX;

/// What a plan must have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// Query heads per head of keys.
    pub group: usize,
    /// Rows of a step.
    pub max_rows: usize,
    /// Tokens of a step.
    pub max_tokens: usize,
    /// Chunks of a step's decoded rows, before chunks are made longer. A fit number is the tokens that the
    /// cache holds divided by 256, plus the rows.
    pub max_chunks: usize,
    /// Packed queries of a tile: [`super::prefill_tile`].
    pub prefill_tile: usize,
}

/// Tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanRow {
    /// The row's first token in the batch.
    pub first_token: usize,
    /// How many tokens it has.
    pub num_tokens: usize,
    /// How many positions come before them.
    pub num_computed: usize,
    /// Its block table's row.
    pub table: usize,
}

impl PlanRow {
    fn num_keys(&self) -> usize {
        self.num_computed + self.num_tokens
    }

    fn is_decode(&self) -> bool {
        self.num_tokens <= MAX_DECODE_TOKENS
    }
}

/// How many records of each list there are at most: the size of the grids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanGrid {
    /// Chunks of decoded rows.
    pub decodes: usize,
    /// Decoded rows whose chunks are joined, or parts of such rows.
    pub merges: usize,
    /// Tiles of prefilled rows.
    pub prefills: usize,
}

/// A step's lists. Made once, filled every step without allocation.
#[derive(Debug)]
pub struct Plan {
    limits: PlanLimits,
    chunk: usize,
    words: Vec<u32>,
    grid: PlanGrid,
}

impl Plan {
    /// Allocates an empty plan.
    pub fn new(limits: PlanLimits) -> Result<Self, Error> {
        Self::with_chunk(limits, CHUNK)
    }

    /// As [`Plan::new`], with chunks of another length, a multiple of 64.
    pub fn with_chunk(limits: PlanLimits, chunk: usize) -> Result<Self, Error> {
        check_multiple("attention: queries per head of keys", limits.group, 1)?;
        check_multiple("attention: a tile's queries", limits.prefill_tile, DECODE_TILE)?;
        check_multiple("attention: keys of a chunk", chunk, 64)?;
        // Every row has a chunk of its own at least, for each tile of its queries.
        let tiles = (MAX_DECODE_TOKENS * limits.group).div_ceil(DECODE_TILE);
        let max_chunks = limits.max_chunks.max(limits.max_rows * tiles);
        let limits = PlanLimits { max_chunks, ..limits };
        let words =
            HEADER + RECORD * (limits.max_decodes() + limits.max_merges() + limits.max_prefills());
        let mut words = Vec::with_capacity(words);
        words.resize(HEADER, 0);
        Ok(Self { limits, chunk, words, grid: PlanGrid::default() })
    }

    /// The most words that a plan has.
    pub fn max_words(&self) -> usize {
        self.words.capacity()
    }

    /// What to upload.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// This step's grid.
    pub fn grid(&self) -> PlanGrid {
        self.grid
    }

    /// The grid of any step of `num_rows` rows that are all decoded: what to capture a graph with.
    pub fn decode_grid(&self, num_rows: usize) -> PlanGrid {
        let tiles = (MAX_DECODE_TOKENS * self.limits.group).div_ceil(DECODE_TILE);
        PlanGrid { decodes: self.limits.max_chunks, merges: num_rows * tiles, prefills: 0 }
    }

    /// Rows of partial results that a plan names at most.
    pub fn max_partials(&self) -> usize {
        self.limits.max_chunks * self.limits.group.min(DECODE_TILE)
    }

    /// Plans a step. Rows without tokens are left out.
    pub fn build(&mut self, rows: &[PlanRow]) -> Result<(), Error> {
        check_index("attention: rows", rows.len(), self.limits.max_rows + 1)?;
        let num_tokens = rows.iter().fold(0, |sum: usize, row| sum.saturating_add(row.num_tokens));
        check_index("attention: tokens", num_tokens, self.limits.max_tokens + 1)?;
        let limit = 1 << 24;
        for row in rows {
            check_index("attention: a row's keys", row.num_computed.max(row.num_tokens), limit)?;
        }
        let chunk = self.fitting_chunk(rows);
        self.words.resize(HEADER, 0);
        self.words[MERGE_QUERIES] = 0;
        self.grid = PlanGrid::default();
        self.list(DECODES, |plan| plan.push_decodes(rows, chunk));
        self.list(MERGES, |plan| plan.push_merges(rows, chunk));
        self.list(PREFILLS, |plan| plan.push_prefills(rows));
        self.grid = PlanGrid {
            decodes: self.words[2 * DECODES] as usize,
            merges: self.words[2 * MERGES] as usize,
            prefills: self.words[2 * PREFILLS] as usize,
        };
        Ok(())
    }

    /// The fixed length of chunks, doubled until all chunks have room.
    fn fitting_chunk(&self, rows: &[PlanRow]) -> usize {
        let mut chunk = self.chunk;
        loop {
            let (mut num_chunks, mut num_partials) = (0, 0);
            for row in rows.iter().filter(|row| row.is_decode()) {
                let (chunks, queries) =
                    (row.num_keys().div_ceil(chunk), row.num_tokens * self.limits.group);
                num_chunks += chunks * queries.div_ceil(DECODE_TILE);
                num_partials += if chunks > 1 { chunks * queries } else { 0 };
            }
            if num_chunks <= self.limits.max_chunks && num_partials <= self.max_partials() {
                return chunk;
            }
            chunk *= 2;
        }
    }

    fn list(&mut self, list: usize, push: impl FnOnce(&mut Self)) {
        let begin = self.words.len();
        push(self);
        self.words[2 * list] = ((self.words.len() - begin) / RECORD) as u32;
        self.words[2 * list + 1] = begin as u32;
    }

    fn push_decodes(&mut self, rows: &[PlanRow], chunk: usize) {
        let mut partial = 0;
        for (row, first, queries) in tiles(rows, self.limits.group) {
            let num_chunks = row.num_keys().div_ceil(chunk);
            for begin in (0..row.num_keys()).step_by(chunk) {
                let end = row.num_keys().min(begin + chunk);
                let to = if num_chunks > 1 { partial } else { NOWHERE };
                self.push_work(row, first, [begin, end], to);
                partial += if num_chunks > 1 { queries as u32 } else { 0 };
            }
        }
    }

    fn push_merges(&mut self, rows: &[PlanRow], chunk: usize) {
        let mut partial = 0;
        for (row, first, queries) in tiles(rows, self.limits.group) {
            let num_chunks = row.num_keys().div_ceil(chunk);
            if num_chunks > 1 {
                let record =
                    [row.first_token, first, queries, num_chunks, partial, row.num_tokens, 0, 0];
                self.words.extend(record.map(|word| word as u32));
                self.words[MERGE_QUERIES] = self.words[MERGE_QUERIES].max(queries as u32);
                partial += num_chunks * queries;
            }
        }
    }

    fn push_prefills(&mut self, rows: &[PlanRow]) {
        let (group, tile) = (self.limits.group, self.limits.prefill_tile);
        for row in rows.iter().filter(|row| !row.is_decode()) {
            // The last ones see most, so they begin first.
            for first in (0..row.num_tokens * group).step_by(tile).rev() {
                let last = (first + tile).min(row.num_tokens * group) - 1;
                let end = row.num_computed + last / group + 1;
                self.push_work(row, first, [0, end], NOWHERE);
            }
        }
    }

    fn push_work(&mut self, row: &PlanRow, first_query: usize, keys: [usize; 2], partial: u32) {
        let PlanRow { first_token, num_tokens, num_computed, table } = *row;
        let record = [first_token, num_tokens, num_computed, table, first_query, keys[0], keys[1]];
        self.words.extend(record.map(|word| word as u32));
        self.words.push(partial);
    }
}

const DECODES: usize = 0;
const MERGES: usize = 1;
const PREFILLS: usize = 2;

impl PlanLimits {
    fn max_decodes(&self) -> usize {
        self.max_chunks
    }

    fn max_merges(&self) -> usize {
        self.max_chunks / 2
    }

    /// Each row's last tile may have one query only.
    fn max_prefills(&self) -> usize {
        let rows = self.max_rows.min(self.max_tokens / (MAX_DECODE_TOKENS + 1));
        self.max_tokens * self.group / self.prefill_tile + rows
    }
}

/// The tiles of packed queries of all rows that are decoded: the row, the first query, how many there are.
fn tiles(rows: &[PlanRow], group: usize) -> impl Iterator<Item = (&PlanRow, usize, usize)> {
    rows.iter().filter(|row| row.is_decode()).flat_map(move |row| {
        let queries = row.num_tokens * group;
        let firsts = (0..queries).step_by(DECODE_TILE);
        firsts.map(move |first| (row, first, DECODE_TILE.min(queries - first)))
    })
}
