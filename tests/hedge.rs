//! x
use sconce::engine::{output::*, plan::*, request::*, scheduler::*, sequence::RequestId};
use sconce::runner::{Executor, ExecutorLimits, hash::HashModel};
use std::collections::HashMap;
use std::time::Duration;
struct Rng(u64);
impl Rng { fn n(&mut self, n: u64) -> u64 { self.0 ^= self.0 << 13; self.0 ^= self.0 >> 7; self.0 ^= self.0 << 17; self.0 % n } }
#[test]
fn sim() {
    let mut total = 0;
    for seed in 1..400u64 {
        let mut r = Rng(seed.wrapping_mul(0x9E3779B97F4A7C15) | 1);
        let l = ExecutorLimits { block_size: 4, num_blocks: 12 + r.n(40) as u32, max_num_batched_tokens: 8 + r.n(64) as u32, max_num_seqs: 1 + r.n(8) as u32, max_model_len: 40, vocab_size: 100 };
        let mut m = HashModel::new(l, 7);
        let mut s = Scheduler::new(SchedulerConfig { block_size: 4, num_blocks: l.num_blocks, max_num_batched_tokens: l.max_num_batched_tokens, max_num_seqs: l.max_num_seqs, max_model_len: 40, max_queue: 20, max_itl: Duration::from_millis(50), eos_token_ids: vec![7], hash_key: (1, seed) });
        let mut live: HashMap<u64, (Request, Vec<Vec<u32>>, Vec<bool>)> = HashMap::new();
        let mut next = 0u64; let mut plan = StepPlan::default(); let mut outs = vec![];
        let mut steps = 0;
        while next < 60 || !live.is_empty() {
            steps += 1; assert!(steps < 100000, "stuck {seed} {:?}", s.stats());
            while next < 60 && r.n(3) == 0 {
                let n = 1 + r.n(l.max_num_seqs.min(3) as u64) as u32;
                let base = r.n(3) as u32; let len = 1 + r.n(30) as usize;
                let shared = r.n(20) as usize;
                let prompt: Vec<u32> = (0..len).map(|i| if i < shared { base + 10 } else { r.n(90) as u32 + 8 }).collect();
                let req = Request { prompt, n, sampling: SamplingParams { temperature: r.n(2) as f32, seed: r.n(5), max_tokens: 1 + r.n(20) as u32, ignore_eos: r.n(2) == 0, ..Default::default() }, cache_salt: r.n(2) as u128 };
                if s.submit(RequestId(next), req.clone(), None).is_ok() { total += 1; live.insert(next, (req, vec![vec![]; n as usize], vec![false; n as usize])); }
                next += 1;
            }
            if r.n(6) == 0 && let Some(id) = live.keys().min().copied() { if r.n(3)==0 { s.cancel(RequestId(id)); } }
            if s.step(Duration::ZERO, &mut plan) {
                if r.n(6) == 0 && let Some(id) = live.keys().max().copied() { if r.n(3)==0 { s.cancel(RequestId(id)); } }
                let mut sm = vec![]; m.forward(&plan, &mut sm).unwrap();
                s.commit(&plan, sm, Duration::from_micros(10));
            }
            s.take_outputs(&mut outs);
            for o in outs.drain(..) {
                let (req, toks, fin) = live.get_mut(&o.request.0).unwrap();
                assert!(!fin[o.index as usize]);
                if let Some(t) = o.token { toks[o.index as usize].push(t); }
                if let Some(f) = o.finish {
                    fin[o.index as usize] = true;
                    let e = m.expected(req, o.index);
                    let g = &toks[o.index as usize];
                    if f == Finish::Cancelled { assert_eq!(&e[..g.len()], &g[..], "seed {seed}"); } else { assert_eq!(&e, g, "seed {seed} {:?} {}", o, req.prompt.len()); }
                    if fin.iter().all(|f| *f) { live.remove(&o.request.0); }
                }
            }
        }
        assert_eq!(s.stats().num_used_blocks, 0);
    }
    println!("{total}");
}
