//! `cargo xtask tidy`: a report, not a gate. Long files and functions are questions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 60;

/// Prints what has grown long, longest first.
pub(crate) fn run() -> ExitCode {
    let mut files = Vec::new();
    for root in ["crates", "examples", "xtask"] {
        collect(Path::new(root), &mut files);
    }
    let mut long: Vec<(usize, String)> = files.iter().flat_map(|file| long_in(file)).collect();
    long.sort_by(|a, b| b.cmp(a));
    for (lines, what) in &long {
        println!("{lines:5}  {what}");
    }
    println!("{} files; {} of them or of their functions are long", files.len(), long.len());
    ExitCode::SUCCESS
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn long_in(file: &Path) -> Vec<(usize, String)> {
    let Ok(text) = fs::read_to_string(file) else { return Vec::new() };
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    if lines.len() > FILE_LINES {
        long.push((lines.len(), file.display().to_string()));
    }
    let mut begun: Option<(usize, usize, &str)> = None;
    for (number, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let is_head = line
            .trim_start()
            .split(['(', '<'])
            .next()
            .is_some_and(|head| head.split_whitespace().rev().nth(1) == Some("fn"));
        match begun {
            Some((from, depth, head)) if indent == depth && line.trim() == "}" => {
                if number - from > FUNCTION_LINES {
                    long.push((number - from, format!("{}:{} {}", file.display(), from + 1, head.trim())));
                }
                begun = None;
            }
            None if is_head => begun = Some((number, indent, line)),
            Some(_) | None => {}
        }
    }
    long
}
