//! The pool of KV-cache blocks, with the prefix cache that finds them again.
//!
//! A block is held by the block tables that count a reference to it. A full block whose tokens are
//! computed is *indexed* under a hash of everything before it and its own tokens; when nobody holds
//! it any more it keeps its contents until it is handed out again, oldest first, so that a later
//! prompt with the same beginning takes it back without recomputing.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::plan::BlockId;
use super::request::TokenId;

/// Identity of a full block's contents: a keyed hash chained over salt, parents and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash(u128);

/// End of a list, and "not in a list".
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Block {
    /// Set while the block can be found by its contents.
    hash: Option<BlockHash>,
    parent: Option<BlockHash>,
    salt: u128,
    /// Neighbours in the list of free blocks.
    previous: u32,
    next: u32,
}

/// Hashes a [`BlockHash`], which is a keyed hash already: its upper half will do.
#[derive(Clone, Copy, Debug, Default)]
struct UpperHalf(u64);

impl Hasher for UpperHalf {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = (hash >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All blocks of one KV cache.
#[derive(Debug)]
pub struct BlockPool {
    block_size: usize,
    key: (u64, u64),
    /// Holders of each block. Apart from the blocks, for every step reads many.
    ref_counts: Vec<u32>,
    blocks: Vec<Block>,
    /// `[num_blocks * block_size]` the indexed blocks' tokens: what a hit is compared with.
    tokens: Vec<TokenId>,
    index: HashMap<BlockHash, BlockId, BuildHasherDefault<UpperHalf>>,
    /// Free blocks, the next to be handed out first.
    free_head: u32,
    free_tail: u32,
    num_free: usize,
}

impl BlockPool {
    /// A pool of `num_blocks` blocks of `block_size` tokens. `key` keeps block hashes from being
    /// predicted.
    pub fn new(num_blocks: u32, block_size: u32, key: (u64, u64)) -> Self {
        let block = Block { hash: None, parent: None, salt: 0, previous: NONE, next: NONE };
        let mut pool = Self {
            block_size: block_size as usize,
            key,
            ref_counts: vec![0; num_blocks as usize],
            blocks: vec![block; num_blocks as usize],
            tokens: vec![0; num_blocks as usize * block_size as usize],
            index: HashMap::default(),
            free_head: NONE,
            free_tail: NONE,
            num_free: 0,
        };
        for id in 0..num_blocks {
            pool.push_free(id);
        }
        pool
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// All blocks.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that nobody holds.
    pub fn num_free(&self) -> usize {
        self.num_free
    }

    /// Block tables that hold `block`.
    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.ref_counts[block.0 as usize]
    }

    /// Takes one block and forgets what it held.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let id = self.free_head;
        if id == NONE {
            return None;
        }
        self.unlink_free(id);
        self.forget(BlockId(id));
        self.ref_counts[id as usize] = 1;
        Some(BlockId(id))
    }

    /// Counts one more holder.
    pub fn share(&mut self, block: BlockId) {
        if self.ref_counts[block.0 as usize] == 0 {
            self.unlink_free(block.0);
        }
        self.ref_counts[block.0 as usize] += 1;
    }

    /// Gives up one reference to each block, last block first, so that the blocks nearest the
    /// start of a prompt, the likeliest to be shared, are handed out last.
    pub fn release(&mut self, blocks: &[BlockId]) {
        for block in blocks.iter().rev() {
            let ref_count = &mut self.ref_counts[block.0 as usize];
            debug_assert!(*ref_count > 0, "block {} was released twice", block.0);
            *ref_count -= 1;
            if *ref_count == 0 {
                if self.blocks[block.0 as usize].hash.is_some() {
                    self.push_free(block.0);
                } else {
                    self.push_free_first(block.0);
                }
            }
        }
    }

    /// The hash of the block that follows `parent` and holds `tokens`.
    pub fn hash(&self, parent: Option<BlockHash>, salt: u128, tokens: &[TokenId]) -> BlockHash {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        match parent {
            Some(parent) => hasher.write_u128(parent.0),
            // The root of each salt's own tree.
            None => hasher.write_u128(salt ^ 1),
        }
        hasher.write_u128(salt);
        // Many at a time: the hasher has a price per call.
        let mut words = [[0; 4]; 32];
        for group in tokens.chunks(words.len()) {
            for (word, token) in words.iter_mut().zip(group) {
                *word = token.to_le_bytes();
            }
            hasher.write(words[..group.len()].as_flattened());
        }
        BlockHash(hasher.finish128().as_u128())
    }

    /// The block that holds `tokens` after `parent`, with that salt: by hash, then by comparison.
    pub fn find(
        &self,
        hash: BlockHash,
        parent: Option<BlockHash>,
        salt: u128,
        tokens: &[TokenId],
    ) -> Option<BlockId> {
        let id = *self.index.get(&hash)?;
        let block = &self.blocks[id.0 as usize];
        (block.parent == parent && block.salt == salt && self.tokens_of(id) == tokens).then_some(id)
    }

    /// What an indexed block holds.
    fn tokens_of(&self, id: BlockId) -> &[TokenId] {
        let start = id.0 as usize * self.block_size;
        &self.tokens[start..start + self.block_size]
    }

    /// Makes a full, computed block findable. The first of several with the same contents wins.
    pub fn insert(
        &mut self,
        id: BlockId,
        hash: BlockHash,
        parent: Option<BlockHash>,
        (salt, tokens): (u128, &[TokenId]),
    ) {
        if self.index.contains_key(&hash) || self.blocks[id.0 as usize].hash.is_some() {
            return;
        }
        self.index.insert(hash, id);
        let block = &mut self.blocks[id.0 as usize];
        block.hash = Some(hash);
        block.parent = parent;
        block.salt = salt;
        let start = id.0 as usize * self.block_size;
        self.tokens[start..start + self.block_size].copy_from_slice(tokens);
    }

    /// Compares the pool's books with who holds what.
    pub(super) fn check(&self, holders: &HashMap<BlockId, u32>) -> Result<(), String> {
        for (id, block) in self.blocks.iter().enumerate() {
            let held = holders.get(&BlockId(id as u32)).copied().unwrap_or(0);
            let counted = self.ref_counts[id];
            if counted != held {
                return Err(format!("block {id} counts {counted} holders of {held}"));
            }
            if let Some(hash) = block.hash {
                let (id, tokens) = (BlockId(id as u32), self.tokens_of(BlockId(id as u32)));
                let indexed = self.index.get(&hash) == Some(&id);
                let same = self.hash(block.parent, block.salt, tokens) == hash;
                if !indexed || !same {
                    return Err(format!("{id:?} is indexed wrongly"));
                }
            }
        }
        let (mut at, mut seen) = (self.free_head, 0);
        while at != NONE && seen <= self.blocks.len() {
            if self.ref_counts[at as usize] > 0 {
                return Err(format!("block {at} is free and held"));
            }
            seen += 1;
            at = self.blocks[at as usize].next;
        }
        if seen != self.num_free || seen + holders.len() != self.blocks.len() {
            return Err(format!("{seen} free and {} held blocks", holders.len()));
        }
        Ok(())
    }

    fn forget(&mut self, id: BlockId) {
        if let Some(hash) = self.blocks[id.0 as usize].hash.take() {
            self.index.remove(&hash);
        }
    }

    fn push_free(&mut self, id: u32) {
        let tail = self.free_tail;
        let block = &mut self.blocks[id as usize];
        block.previous = tail;
        block.next = NONE;
        match tail {
            NONE => self.free_head = id,
            tail => self.blocks[tail as usize].next = id,
        }
        self.free_tail = id;
        self.num_free += 1;
    }

    /// A block without contents worth keeping is the next to be handed out.
    fn push_free_first(&mut self, id: u32) {
        let head = self.free_head;
        let block = &mut self.blocks[id as usize];
        block.previous = NONE;
        block.next = head;
        match head {
            NONE => self.free_tail = id,
            head => self.blocks[head as usize].previous = id,
        }
        self.free_head = id;
        self.num_free += 1;
    }

    fn unlink_free(&mut self, id: u32) {
        let (previous, next) = (self.blocks[id as usize].previous, self.blocks[id as usize].next);
        match previous {
            NONE => self.free_head = next,
            previous => self.blocks[previous as usize].next = next,
        }
        match next {
            NONE => self.free_tail = previous,
            next => self.blocks[next as usize].previous = previous,
        }
        self.num_free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> BlockPool {
        BlockPool::new(3, 4, (1, 2))
    }

    #[test]
    fn a_block_without_contents_goes_out_before_one_that_may_be_found_again() {
        let mut pool = pool();
        let kept = pool.allocate().unwrap();
        let hash = pool.hash(None, 0, &[1, 2, 3, 4]);
        pool.insert(kept, hash, None, (0, &[1, 2, 3, 4]));
        let empty = pool.allocate().unwrap();
        pool.release(&[kept, empty]);

        assert_eq!(pool.allocate(), Some(empty));
        assert_eq!(pool.find(hash, None, 0, &[1, 2, 3, 4]), Some(kept));
        pool.allocate().unwrap();
        assert_eq!(pool.allocate(), Some(kept));
        assert_eq!(pool.find(hash, None, 0, &[1, 2, 3, 4]), None, "its contents are gone");
        assert_eq!(pool.allocate(), None);
    }

    #[test]
    fn the_end_of_a_prefix_is_forgotten_before_its_beginning() {
        let mut pool = pool();
        let blocks: Vec<_> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        let mut parent = None;
        for (i, block) in blocks.iter().enumerate() {
            let tokens = [i as u32; 4];
            let hash = pool.hash(parent, 0, &tokens);
            pool.insert(*block, hash, parent, (0, &tokens));
            parent = Some(hash);
        }

        pool.release(&blocks);

        assert_eq!(pool.allocate(), Some(blocks[2]));
        assert_eq!(pool.allocate(), Some(blocks[1]));
    }

    #[test]
    fn a_shared_block_is_free_when_the_last_holder_lets_go() {
        let mut pool = pool();
        let block = pool.allocate().unwrap();
        pool.share(block);

        pool.release(&[block]);
        assert_eq!((pool.ref_count(block), pool.num_free()), (1, 2));
        pool.release(&[block]);
        assert_eq!((pool.ref_count(block), pool.num_free()), (0, 3));
        pool.check(&HashMap::new()).unwrap();
    }

    #[test]
    fn the_same_tokens_after_another_parent_or_with_another_salt_are_not_the_same_block() {
        let mut pool = pool();
        let block = pool.allocate().unwrap();
        let tokens = [1, 2, 3, 4];
        let hash = pool.hash(None, 0, &tokens);
        pool.insert(block, hash, None, (0, &tokens));

        assert_ne!(pool.hash(Some(hash), 0, &tokens), hash);
        assert_ne!(pool.hash(None, 1, &tokens), hash);
        // Even if two hashes were equal, what they stand for is compared.
        assert_eq!(pool.find(hash, None, 1, &tokens), None);
        assert_eq!(pool.find(hash, Some(hash), 0, &tokens), None);
        assert_eq!(pool.find(hash, None, 0, &[1, 2, 3, 5]), None);
        assert_eq!(pool.find(hash, None, 0, &tokens), Some(block));
    }
}
