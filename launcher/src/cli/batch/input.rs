//! The file of a batch's requests, as far as it must be understood here.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// Longest line that is read; a server may take less.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// A file that can be uploaded.
pub(super) struct Input {
    path: PathBuf,
    endpoint: String,
    /// Where it lies, if it was written here.
    _folder: Option<TempDir>,
}

impl Input {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where its requests go.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// Looks where the requests of a file go. With a model, writes them anew, each with it.
pub(super) fn prepare(file: &Path, model: Option<&str>) -> anyhow::Result<Input> {
    let mut lines = Lines::open(file)?;
    let Some(first) = lines.next()? else { bail!("{} has no requests", file.display()) };
    let endpoint = first.get("url").and_then(Value::as_str);
    let Some(endpoint) = endpoint.map(str::to_owned) else {
        bail!("{}, line {}: there is no `url`", file.display(), lines.number)
    };
    let Some(model) = model else {
        return Ok(Input { path: file.to_owned(), endpoint, _folder: None });
    };
    let folder = tempfile::tempdir().context("making a folder for the requests")?;
    // The server is told the name that the user knows.
    let path = folder.path().join(file.file_name().unwrap_or(file.as_os_str()));
    let written = (|| {
        let mut out = BufWriter::new(File::create(&path)?);
        let mut next = Some(first);
        while let Some(mut line) = next {
            set_model(&mut line, model)
                .with_context(|| format!("{}, line {}", file.display(), lines.number))?;
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
            next = lines.next()?;
        }
        anyhow::Ok(out.flush()?)
    })();
    written.context("writing the requests with the model")?;
    Ok(Input { path, endpoint, _folder: Some(folder) })
}

fn set_model(line: &mut Map<String, Value>, model: &str) -> anyhow::Result<()> {
    let Some(Value::Object(body)) = line.get_mut("body") else { bail!("there is no `body`") };
    body.insert("model".to_owned(), model.into());
    Ok(())
}

/// The lines with something in them.
struct Lines {
    name: PathBuf,
    reader: BufReader<File>,
    number: usize,
}

impl Lines {
    fn open(file: &Path) -> anyhow::Result<Self> {
        let opened = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        Ok(Self { name: file.to_owned(), reader: BufReader::new(opened), number: 0 })
    }

    fn next(&mut self) -> anyhow::Result<Option<Map<String, Value>>> {
        use std::io::Read;
        loop {
            let mut line = Vec::new();
            let mut bounded = self.reader.by_ref().take(MAX_LINE_BYTES);
            let num_read = bounded.read_until(b'\n', &mut line);
            let num_read = num_read.with_context(|| format!("reading {}", self.name.display()))?;
            if num_read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let read = serde_json::from_slice(text);
            return read.map(Some).with_context(|| {
                format!("{}, line {}: it is no JSON object", self.name.display(), self.number)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn the_first_line_says_where_requests_go() {
        let (_folder, path) = written("\n{\"url\": \"/v1/embeddings\", \"body\": {}}\n");

        let input = prepare(&path, None).unwrap();
        assert_eq!((input.endpoint(), input.path()), ("/v1/embeddings", &*path));
    }

    #[test]
    fn a_model_is_put_into_every_request() {
        let text = "{\"url\": \"/a\", \"body\": {\"n\": 1}}\n\n{\"body\": {\"model\": \"x\"}}";
        let (_folder, path) = written(text);

        let input = prepare(&path, Some("m")).unwrap();
        let lines = std::fs::read_to_string(input.path()).unwrap();
        let expected = "{\"url\":\"/a\",\"body\":{\"n\":1,\"model\":\"m\"}}\n\
                        {\"body\":{\"model\":\"m\"}}\n";
        assert_eq!(lines, expected);
        assert_eq!(input.path().file_name(), path.file_name());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, model, expected) in [
            ("", None, "has no requests"),
            ("\n[]\n", None, "line 2: it is no JSON object"),
            ("{}\n", None, "line 1: there is no `url`"),
            ("{\"url\": \"/a\", \"body\": {}}\n{}\n", Some("m"), "line 2: there is no `body`"),
        ] {
            let (_folder, path) = written(text);
            let error = prepare(&path, model).err().unwrap();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
