//! Scripted failures of the hub and its second host, and how each ends: in a whole model, or in a
//! clear error. Never in a damaged store.

use std::time::Duration;

use sconce_launcher::settings::{Network, Parallel};
use sconce_launcher::store::Check;
use sconce_stand_in_hub::{Fault, Host, StandIn};

use crate::support::{REPO, Site, bytes, list};

/// How a pull ends.
enum End {
    /// In a whole model.
    Whole,
    /// In an error that has this text.
    Error(&'static str),
}

use End::{Error, Whole};

type Script = fn(&StandIn);

/// What goes wrong, and how it ends.
const SCENARIOS: [(&str, Script, End); 30] = [
    ("the body is cut, twice", |hub| cdn(hub, &[Fault::Cut(30_000), Fault::Cut(10)]), Whole),
    (
        "the second host is out of order for a while",
        |hub| {
            cdn(hub, &[Fault::Status(500), Fault::Status(502), Fault::Status(503)]);
        },
        Whole,
    ),
    (
        "the second host is out of order",
        |hub| cdn(hub, &[const { Fault::Status(500) }; 99]),
        Error("gave up after 4 attempts"),
    ),
    (
        "the hub is out of order for a while",
        |hub| {
            at_hub(hub, &[Fault::Status(500), Fault::Status(504)]);
        },
        Whole,
    ),
    (
        "the hub asks for a pause",
        |hub| {
            at_hub(hub, &[Fault::RetryAfter(429, "1".into())]);
        },
        Whole,
    ),
    ("the hub's budget is used up", |hub| at_hub(hub, &[Fault::RateLimit(429, 1)]), Whole),
    (
        "the hub asks for a pause that is too long",
        |hub| {
            at_hub(hub, &[Fault::RetryAfter(429, "99999".into())]);
        },
        Error("asks to wait 99999 s"),
    ),
    (
        "the second host asks for a pause until a date",
        |hub| {
            cdn(hub, &[Fault::RetryAfter(503, "Thu, 01 Jan 1970 00:00:00 GMT".into())]);
        },
        Whole,
    ),
    (
        "the file is shorter than announced",
        |hub| {
            at_hub(hub, &[Fault::Slow(0), Fault::Size(90_001)]);
        },
        Error("must have 90001"),
    ),
    (
        "the file is larger than any disk",
        |hub| {
            at_hub(hub, &[Fault::Slow(0), Fault::Size(1 << 60)]);
        },
        Error("are free on its disk"),
    ),
    ("another content is announced", |hub| hub.announce(&"e".repeat(64)), Error("is corrupt")),
    (
        "a content without a name is announced",
        |hub| {
            at_hub(hub, &[Fault::Slow(0), Fault::Etag("../../evil".into())]);
        },
        Error("no valid content hash"),
    ),
    (
        "the file changes under the download",
        |hub| {
            cdn(hub, &[Fault::Cut(20_000), Fault::NewEtag, Fault::NewEtag]);
        },
        Whole,
    ),
    ("the signature has expired", |hub| cdn(hub, &[Fault::Status(403), Fault::Status(403)]), Whole),
    (
        "the second host never lets in",
        |hub| cdn(hub, &[const { Fault::Status(403) }; 99]),
        Error("status 403"),
    ),
    (
        "the second host does not know the file",
        |hub| cdn(hub, &[const { Fault::Status(404) }; 9]),
        Error("status 404"),
    ),
    (
        "the terms were not accepted",
        |hub| hub.gate(REPO, "hf_other"),
        Error("terms to be accepted"),
    ),
    (
        "the hub redirects in circles",
        |hub| at_hub(hub, &[const { Fault::RedirectLoop }; 99]),
        Error("redirected too often"),
    ),
    (
        "the second host redirects in circles",
        |hub| cdn(hub, &[const { Fault::RedirectLoop }; 99]),
        Error("redirected too often"),
    ),
    (
        "a redirect leads to no web server",
        |hub| at_hub(hub, &[Fault::RedirectAway]),
        Error("redirected"),
    ),
    (
        "everything is slow",
        |hub| {
            at_hub(hub, &[Fault::Slow(100), Fault::Slow(100)]);
            cdn(hub, &[Fault::Slow(100), Fault::Slow(100)]);
        },
        Whole,
    ),
    ("the hub says nothing", |hub| at_hub(hub, &[Fault::Silent]), Whole),
    ("the second host falls silent", |hub| cdn(hub, &[Fault::Stall(1000), Fault::Silent]), Whole),
    ("the repository speaks of chunks too", StandIn::offer_xet, Whole),
    (
        "the list of files is cut",
        |hub| at_hub(hub, &[Fault::Slow(0), Fault::TruncatedJson]),
        Error("no valid JSON body"),
    ),
    ("a hotel answers for the hub", |hub| at_hub(hub, &[Fault::Html]), Error("no valid JSON body")),
    (
        "the list of files never ends",
        |hub| at_hub(hub, &[const { Fault::PageLoop }; 999]),
        Error("end of its list"),
    ),
    (
        "the list of files goes on elsewhere",
        |hub| {
            at_hub(hub, &[Fault::Slow(0), Fault::PageAway]);
        },
        Error("on another host"),
    ),
    (
        "the second host answers with another range",
        |hub| {
            cdn(hub, &[Fault::Cut(5000), Fault::WrongRange]);
        },
        Error("Content-Range"),
    ),
    (
        "the repository was renamed",
        |hub| {
            hub.rename(REPO, "owner/new");
        },
        Whole,
    ),
];

fn cdn(hub: &StandIn, faults: &[Fault]) {
    hub.misbehave_at(Host::Cdn, faults);
}

fn at_hub(hub: &StandIn, faults: &[Fault]) {
    hub.misbehave_at(Host::Hub, faults);
}

#[tokio::test]
async fn every_failure_ends_in_a_whole_model_or_a_clear_error() {
    let shapes = [Parallel::default(), Parallel { part_bytes: 25_000, max_connections: 3 }];
    for (what, script, end) in SCENARIOS {
        for parallel in shapes {
            play(what, script, &end, parallel).await;
        }
    }
}

async fn play(what: &str, script: Script, end: &End, parallel: Parallel) {
    let files = [("config.json", b"{}".to_vec()), ("model.safetensors", bytes(90_000))];
    let mut site = Site::new().await;
    site.settings.hub.parallel = parallel;
    site.settings.hub.read_timeout = Duration::from_millis(300);
    files.iter().for_each(|(file, content)| site.hub.put(REPO, file, content));
    script(&site.hub);
    let name = format!("hf:{REPO}");

    match (end, site.pull(&name).await) {
        (Whole, Ok(_)) => {}
        (Error(expected), Err(error)) => {
            let error = error.to_string();
            assert!(error.contains(expected), "{what}: {error}");
            assert!(!error.contains("secret"), "{what}: {error}");
            assert!(site.puller().store().list().unwrap().is_empty(), "{what}");
            // Once the hub is well again, so is the pull.
            site.hub.behave();
            site.hub.gate(REPO, "hf_secret");
            site.fetch(&name).await;
        }
        (Whole, Err(error)) => panic!("{what}: {error}"),
        (Error(_), Ok(_)) => panic!("{what}: no error"),
    }

    // Whatever happened, what is here now is whole, and nothing is left over.
    site.settings.hub.network = Network::Offline;
    let pulled = site.puller().pull(&name.parse().unwrap(), Check::Always).await.unwrap();
    let manifest = pulled.manifest().unwrap();
    for (file, content) in &files {
        assert_eq!(&std::fs::read(manifest.model.join(file)).unwrap(), content, "{what}: {file}");
    }
    assert!(site.blobs().iter().all(|blob| !blob.ends_with(".incomplete")), "{what}");
    assert!(list(&site.settings.home.join("partial")).is_empty(), "{what}");
    assert!(site.hub.seen_at(Host::Cdn).iter().all(|seen| seen.authorization.is_none()), "{what}");
}
