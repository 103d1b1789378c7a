//! A thousand corruptions, of bytes on the wire and on the disk: none is ever served.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sconce_launcher::pull::Pulled;
use sconce_launcher::settings::Parallel;
use sconce_launcher::store::Check;
use sconce_stand_in_hub::{Fault, Host};

use crate::support::{Site, bytes, hf, list};

const SIZE: usize = 20_000;

/// A site whose files come in five parts, or in one.
async fn site(part_bytes: u64) -> (Site, Vec<u8>) {
    let content = bytes(SIZE);
    let mut site = Site::with("model.gguf", &content).await;
    site.settings.hub.parallel = Parallel { part_bytes, max_connections: 2 };
    (site, content)
}

/// Damages `bytes`: they are others afterwards.
fn damage(bytes: &mut Vec<u8>, rng: &mut StdRng) -> &'static str {
    let place = rng.random_range(0..bytes.len());
    match rng.random_range(0..5) {
        0 => {
            bytes[place] ^= 1 << rng.random_range(0..8);
            "a flipped bit"
        }
        1 => {
            bytes.truncate(place);
            "a lost tail"
        }
        2 => {
            bytes.extend((0..=rng.random_range(0..2000)).map(|_| rng.random::<u8>()));
            "a longer tail"
        }
        3 => {
            let differs = |other: &usize| bytes[*other] != bytes[place];
            let other = (place..bytes.len()).chain(0..place).find(differs);
            match other {
                Some(other) => bytes.swap(place, other),
                None => bytes[place] ^= 1,
            }
            "two bytes in each other's place"
        }
        _ => {
            let end = (place + 512).min(bytes.len());
            bytes[place..end].iter_mut().for_each(|byte| *byte = !*byte);
            "a wrong sector"
        }
    }
}

fn damage_file(path: &Path, rng: &mut StdRng) -> &'static str {
    let mut bytes = std::fs::read(path).unwrap();
    let how = if bytes.is_empty() { "an empty file" } else { damage(&mut bytes, rng) };
    std::fs::write(path, bytes).unwrap();
    how
}

/// A fault of which something wrong arrives.
fn wire_fault(rng: &mut StdRng, content: &[u8]) -> Fault {
    let place = rng.random_range(0..SIZE);
    match rng.random_range(0..7) {
        0 | 1 => Fault::Flip(8 * place + rng.random_range(0..8)),
        2 => {
            let other = (0..SIZE).find(|other| content[*other] != content[place]);
            Fault::Swap(place, other.unwrap_or_default())
        }
        3 => Fault::Short(place % 4000),
        4 => Fault::Long(rng.random_range(1..3000)),
        5 => Fault::WrongBytes,
        _ => Fault::WrongTotal,
    }
}

/// Forgets the model, and everything that the pull left.
fn reset(site: &Site) {
    site.hub.behave();
    let _ = site.puller().remove(&hf("model.gguf").parse().unwrap());
    let _ = std::fs::remove_dir_all(site.repo_dir());
}

#[tokio::test]
async fn four_hundred_on_the_wire_are_caught() {
    for part_bytes in [4000, 1 << 20] {
        let (site, content) = site(part_bytes).await;
        let mut rng = StdRng::seed_from_u64(part_bytes);
        let mut num_refused = 0;
        for round in 0..200 {
            let fault = wire_fault(&mut rng, &content);
            // Somewhere among the parts, or at the start or the end of a resumed file.
            let before = match part_bytes {
                4000 => vec![Fault::Slow(0); rng.random_range(0..5)],
                _ if rng.random() => vec![Fault::Cut(rng.random_range(1..SIZE - 1))],
                _ => Vec::new(),
            };
            site.hub.misbehave(&before);
            site.hub.misbehave(std::slice::from_ref(&fault));

            match site.pull(&hf("model.gguf")).await {
                // A part that was too short was asked for again, or two equal bytes were swapped.
                Ok(pulled) => {
                    let model = &pulled.manifest().unwrap().model;
                    assert!(std::fs::read(model).unwrap() == content, "{round}: {fault:?}");
                }
                Err(error) => {
                    num_refused += 1;
                    let error = error.to_string();
                    let is_clear = error.contains("corrupt") || error.contains("must have");
                    assert!(is_clear, "{round}: {fault:?}: {error}");
                    assert!(site.puller().store().list().unwrap().is_empty(), "{fault:?}");
                    let blobs = site.blobs();
                    assert!(blobs.iter().all(|blob| blob.ends_with(".incomplete")), "{blobs:?}");
                }
            }
            reset(&site);
        }
        assert!(num_refused > 100, "{num_refused} of 200 with parts of {part_bytes}");
    }
}

#[tokio::test]
async fn three_hundred_in_files_that_are_half_here_are_caught() {
    for part_bytes in [4000, 1 << 20] {
        let (site, content) = site(part_bytes).await;
        let mut rng = StdRng::seed_from_u64(part_bytes);
        for round in 0..150 {
            site.hub.misbehave(&[Fault::Cut(rng.random_range(1..3999))]);
            site.hub.misbehave(&[const { Fault::Status(404) }; 5]);
            site.pull(&hf("model.gguf")).await.unwrap_err();
            site.hub.behave();
            let partial = site.repo_dir().join("blobs").join(site.blobs().pop().unwrap());
            let transfers = site.settings.home.join("partial");
            let note = list(&transfers).pop().map(|note| transfers.join(note));
            let how = match note {
                Some(note) if round % 3 == 0 => damage_file(&note, &mut rng),
                _ => damage_file(&partial, &mut rng),
            };

            // What was left is dropped, and fetched again.
            let manifest = site.fetch(&hf("model.gguf")).await;

            assert!(std::fs::read(manifest.model).unwrap() == content, "{round}: {how}");
            reset(&site);
        }
    }
}

#[tokio::test]
async fn three_hundred_in_whole_files_are_caught() {
    let (site, content) = site(1 << 20).await;
    let mut rng = StdRng::seed_from_u64(300);
    for round in 0..300 {
        let manifest = site.fetch(&hf("model.gguf")).await;
        let blob = std::fs::canonicalize(&manifest.model).unwrap();
        let how = match round % 10 {
            0 => {
                std::fs::remove_file(&manifest.model).unwrap();
                std::fs::write(&manifest.model, &content[1..]).unwrap();
                "another file in the place of the link"
            }
            1 => {
                std::fs::remove_file(&blob).unwrap();
                "a link to nothing"
            }
            _ => damage_file(&blob, &mut rng),
        };
        let name = if round % 2 == 0 { hf("model.gguf") } else { "repo".to_owned() };
        let before = site.hub.seen_at(Host::Cdn).len();

        let pulled = site.puller().pull(&name.parse().unwrap(), Check::Always).await.unwrap();

        let Pulled::Fetched(mended) = pulled else { panic!("{round}: {how}: not noticed") };
        assert!(std::fs::read(&mended.model).unwrap() == content, "{round}: {how}");
        // Where only the link was another, its file was still there.
        let num_fetched = site.hub.seen_at(Host::Cdn).len() - before;
        assert_eq!(num_fetched, usize::from(round % 10 > 0), "{round}: {how}");
        reset(&site);
    }
}
