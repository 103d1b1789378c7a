//! Which version of a name a client gets: by the shares, and the same one as long as they stay.
//!
//! Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): each version draws a number from
//! the client's and its own name, scaled by its share, and the smallest wins. The draw is the same in
//! every router and after every restart. A version whose share grows only draws smaller numbers, so
//! clients move to it and never between the others; the second smallest is who takes over when the
//! first has no replica.

use sha2::{Digest as _, Sha256};

use super::table::Share;

/// Whom a request is for, as a number that tells nothing about them.
#[derive(Clone, Debug)]
pub(crate) struct Client([u8; 32]);

impl Client {
    /// The user of a key, or the key itself.
    pub(crate) fn new(key_id: &str, user: Option<&str>) -> Self {
        let mut hasher = Sha256::new();
        hasher.update((key_id.len() as u64).to_le_bytes());
        hasher.update(key_id);
        if let Some(user) = user {
            hasher.update([1]);
            hasher.update(user);
        }
        Self(hasher.finalize().into())
    }

    /// Nobody who would be recognized.
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// The number that a version draws: exponentially distributed, with its weight as the rate.
    fn draw(&self, share: &Share) -> f64 {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(share.version.as_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        let bits = u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 11;
        // In the middle of one of 2^53 equal parts of (0, 1): never 0, never 1.
        let uniform = (bits as f64 + 0.5) / (1_u64 << 53) as f64;
        -uniform.ln() / f64::from(share.weight)
    }
}

/// The shares in the order in which this client gets them.
pub(crate) fn order<'a>(shares: &'a [Share], client: &Client) -> Vec<&'a Share> {
    let mut drawn: Vec<_> = shares.iter().map(|share| (client.draw(share), share)).collect();
    drawn.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    drawn.into_iter().map(|(_, share)| share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(weights: &[u32]) -> Vec<Share> {
        let share = |(i, weight): (usize, &u32)| Share {
            version: format!("m@{i}").into(),
            weight: *weight,
        };
        weights.iter().enumerate().map(share).collect()
    }

    fn first(shares: &[Share], client: &Client) -> String {
        order(shares, client)[0].version.to_string()
    }

    #[test]
    fn a_client_always_gets_the_same_version_and_every_router_agrees() {
        let shares = shares(&[5000, 5000]);
        // Written down: a router of another build, or another machine, must find the same.
        let known = [("k1", None, "m@0"), ("k1", Some("u"), "m@0"), ("k2", None, "m@0")];
        for (key, user, _) in known {
            let client = Client::new(key, user);
            let version = first(&shares, &client);
            let mut turned = shares.clone();
            turned.reverse();
            assert_eq!(first(&turned, &client), version);
        }
        assert_ne!(Client::new("a", Some("b")).0, Client::new("ab", None).0);
        assert_ne!(Client::new("a", Some("")).0, Client::new("a", None).0);
    }

    #[test]
    fn clients_are_shared_out_by_weight() {
        let shares = shares(&[9000, 1000]);
        let clients = (0..20_000).map(|i| Client::new("key", Some(&i.to_string())));
        let num = clients.filter(|client| first(&shares, client) == "m@1").count();
        // Six standard deviations of a fair draw.
        assert!((1745..2255).contains(&num), "{num}");
    }

    proptest! {
        #[test]
        fn raising_a_canary_only_moves_clients_to_it(
            (low, high) in (1..9_999u32, 1..9_999u32),
            users in prop::collection::vec(any::<u64>(), 50),
        ) {
            let (low, high) = (low.min(high), low.max(high));
            let before = shares(&[10_000 - low, low]);
            let after = shares(&[10_000 - high, high]);
            for user in users {
                let client = Client::new("key", Some(&user.to_string()));
                let (from, to) = (first(&before, &client), first(&after, &client));
                prop_assert!(from == to || to == "m@1", "{from} -> {to}");
            }
        }

        #[test]
        fn the_others_keep_their_clients_among_themselves(
            (first_weight, second_weight) in (1..100u32, 1..100u32),
            (low, high) in (0..5_000u32, 0..5_000u32),
            users in prop::collection::vec(any::<u64>(), 50),
        ) {
            // The third grows, and the ratio of the others stays.
            let (low, high) = (low.min(high) + 1, low.max(high) + 1);
            let before = shares(&[first_weight, second_weight, low]);
            let after = shares(&[first_weight, second_weight, high]);
            for user in users {
                let client = Client::new("key", Some(&user.to_string()));
                let (from, to) = (first(&before, &client), first(&after, &client));
                prop_assert!(from == to || to == "m@2", "{from} -> {to}");
            }
        }

        #[test]
        fn everyone_gets_every_version_in_some_order(weights in prop::collection::vec(1..100u32, 1..6)) {
            let shares = shares(&weights);
            prop_assert_eq!(order(&shares, &Client::random()).len(), shares.len());
        }
    }
}
