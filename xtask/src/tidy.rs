//! `cargo xtask tidy`: checks identifiers, type names, the length of test names and imports; docs/glossary.md lists the words.
//!
//! Five rules: no identifier contains a word that the glossary lists as private, in the singular or the plural; no two files
//! of the crates define a type of the same name, except where the glossary says so; no test has a name of more than eight
//! words; a module imports none of those that the head of its `mod.rs` lists behind `Must not import:`; the folders of
//! [`PURE`] name nothing of [`IMPURE`] outside of tests. Types whose names a macro composes, such as the frames, are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

const GLOSSARY: &str = "docs/glossary.md";
/// The heading above the list of private words.
const PRIVATE_WORDS: &str = "## Private words";
/// The heading above the table of names that stand twice.
const TWO_HOMES: &str = "## Words with two homes";
const TEST_NAME_WORDS_MAX: usize = 8;
/// The beginning of the line that lists, in backticks, what a module must not import.
const MUST_NOT_IMPORT: &str = "//! Must not import:";

/// The folders whose code gets time, random numbers and bytes as arguments.
const PURE: [&str; 2] = ["crates/antiphon-wire/src/", "crates/antiphon-dist/src/node/"];
/// What reads a clock, a file, a socket, the environment or the randomness of the system, or is shared by a whole thread.
const IMPURE: [&str; 15] = [
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "SystemRandom",
    "thread_local",
    "Instant::now",
    "SystemTime",
    "RandomState",
    "HashMap",
    "HashSet",
    "EphemeralPrivateKey",
];

/// Prints each violation; fails when there is one.
pub(crate) fn run() -> ExitCode {
    match check(&root()) {
        Ok(findings) if findings.is_empty() => {
            println!("tidy: passed");
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            for finding in &findings {
                println!("{finding}");
            }
            println!("tidy: failed: {} findings", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("tidy: failed: {error}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

fn check(root: &Path) -> Result<Vec<String>, String> {
    let glossary = Glossary::parse(&read(&root.join(GLOSSARY))?)?;
    let mut files = Vec::new();
    for folder in ["crates", "examples", "xtask", "fuzz"] {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    let (mut findings, mut types) = (Vec::new(), BTreeMap::<String, BTreeSet<String>>::new());
    for file in &files {
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let text = read(file)?;
        let names = Names::of(&text).map_err(|error| format!("{name}: {error}"))?;
        if PURE.iter().any(|folder| name.starts_with(folder)) {
            let impure = impure(&text).map_err(|error| format!("{name}: {error}"))?;
            findings.extend(impure.into_iter().map(|finding| format!("{name}:{finding}")));
        }
        findings.extend(glossary.private_in(&names).map(|finding| format!("{name}:{finding}")));
        findings.extend(names.long_tests().map(|finding| format!("{name}:{finding}")));
        if name.starts_with("crates/") && name.contains("/src/") {
            for defined in names.types {
                types.entry(defined).or_default().insert(name.clone());
            }
        }
    }
    findings.extend(glossary.doubles(&types));
    for head in files.iter().filter(|file| file.ends_with("mod.rs")) {
        let folder = head.parent().unwrap_or(root);
        let forbidden = must_not_import(&read(head)?);
        for file in files.iter().filter(|file| file.starts_with(folder)) {
            let name = file.strip_prefix(root).unwrap_or(file).display();
            findings.extend(imported(&read(file)?, &forbidden).map(|finding| format!("{name}:{finding}")));
        }
    }
    Ok(findings)
}

pub(crate) fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

pub(crate) fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let unreadable = |error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The modules that the head of a `mod.rs` forbids to import.
fn must_not_import(head: &str) -> BTreeSet<String> {
    let lists = head.lines().filter_map(|line| line.strip_prefix(MUST_NOT_IMPORT));
    lists.flat_map(|list| list.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The imports of forbidden modules in a file, outside of comments.
fn imported<'t>(text: &'t str, forbidden: &'t BTreeSet<String>) -> impl Iterator<Item = String> + 't {
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim_start().starts_with("//"));
    lines.flat_map(move |(line, number)| {
        let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
        let paths = line.split("crate::").skip(1).flat_map(move |path| match path.strip_prefix('{') {
            Some(list) => list.split(',').map(str::trim_start).collect(),
            None => vec![path],
        });
        paths.filter_map(move |path| {
            let module = path.split(|letter| !is_part(letter)).next()?;
            forbidden
                .contains(module)
                .then(|| format!("{number}: imports `{module}`, which the head of its `mod.rs` forbids"))
        })
    })
}

/// The paths of [`IMPURE`] in a file, outside of tests.
fn impure(text: &str) -> Result<Vec<String>, String> {
    let tokens = TokenStream::from_str(text).map_err(|error| error.to_string())?;
    let mut paths = Vec::new();
    add_paths(tokens, &[], &mut paths);
    let names = |path: &[String], forbidden: &str| {
        let parts: Vec<&str> = forbidden.split("::").collect();
        path.windows(parts.len()).any(|part| part.iter().eq(parts.iter()))
    };
    let found = paths.iter().filter_map(|(path, line)| {
        let forbidden = IMPURE.iter().find(|forbidden| names(path, forbidden))?;
        Some(format!("{line}: uses `{forbidden}`; this code is pure, so its caller hands in what it needs"))
    });
    Ok(found.collect())
}

/// Adds each path, such as `a::b`, with its line. The paths of an import `a::{b, c}` are `a::b` and `a::c`.
fn add_paths(tokens: TokenStream, prefix: &[String], paths: &mut Vec<(Vec<String>, usize)>) {
    let (mut path, mut line) = (prefix.to_vec(), 0);
    // Whether the next identifier belongs to `path`, and whether the next item is a test.
    let (mut goes_on, mut is_test) = (true, false);
    for token in tokens {
        match token {
            TokenTree::Ident(part) if !is_test => {
                if !std::mem::replace(&mut goes_on, false) {
                    paths.push((std::mem::replace(&mut path, prefix.to_vec()), line));
                }
                line = part.span().start().line;
                path.push(part.to_string());
            }
            TokenTree::Punct(mark) if mark.as_char() == ':' => goes_on = true,
            TokenTree::Punct(mark) => {
                goes_on = false;
                is_test &= mark.as_char() != ';';
            }
            TokenTree::Group(group) if is_test => is_test = group.delimiter() != Delimiter::Brace,
            TokenTree::Group(group) => {
                is_test = group.delimiter() == Delimiter::Bracket && is_test_attribute(&group);
                let is_list = goes_on && group.delimiter() == Delimiter::Brace;
                add_paths(group.stream(), if is_list { &path } else { &[] }, paths);
                goes_on = false;
            }
            TokenTree::Ident(_) | TokenTree::Literal(_) => goes_on = false,
        }
    }
    paths.push((path, line));
}

/// Whether an attribute is `test`, or a `cfg` with the word `test` and without `not`.
pub(crate) fn is_test_attribute(attribute: &Group) -> bool {
    let text = attribute.stream().to_string();
    let mut words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    text == "test" || (text.starts_with("cfg") && !text.contains("not") && words.any(|word| word == "test"))
}

/// The parts of the glossary that are checked.
struct Glossary {
    private: BTreeSet<String>,
    twice: BTreeSet<String>,
}

impl Glossary {
    fn parse(text: &str) -> Result<Self, String> {
        let section = |heading: &str| {
            let (_, rest) =
                text.split_once(heading).ok_or_else(|| format!("{GLOSSARY} has no heading `{heading}`"))?;
            Ok::<_, String>(rest.split("\n## ").next().unwrap_or(rest))
        };
        let in_backticks = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let rows = section(TWO_HOMES)?.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
        let private: BTreeSet<String> = in_backticks(section(PRIVATE_WORDS)?);
        if private.is_empty() {
            return Err(format!("{GLOSSARY} lists no private words"));
        }
        Ok(Self { private, twice: rows.flat_map(in_backticks).collect() })
    }

    /// The identifiers that contain a private word, each once.
    fn private_in<'n>(&'n self, names: &'n Names) -> impl Iterator<Item = String> + 'n {
        names.identifiers.iter().filter_map(|(identifier, line)| {
            let word = words(identifier).find(|word| {
                self.private.contains(word)
                    || word.strip_suffix('s').is_some_and(|word| self.private.contains(word))
            })?;
            Some(format!("{line}: `{identifier}` contains the private word `{word}`"))
        })
    }

    fn doubles<'g>(
        &'g self,
        types: &'g BTreeMap<String, BTreeSet<String>>,
    ) -> impl Iterator<Item = String> + 'g {
        types.iter().filter(|(name, files)| files.len() > 1 && !self.twice.contains(*name)).map(
            |(name, files)| {
                let files: Vec<&str> = files.iter().map(String::as_str).collect();
                format!("the type `{name}` is defined in {}", files.join(" and "))
            },
        )
    }
}

/// The words of an identifier, in lower case.
fn words(identifier: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for letter in identifier.chars() {
        let starts = letter == '_' || (letter.is_uppercase() && was_lower);
        if starts {
            words.push(String::new());
        }
        if letter != '_'
            && let Some(word) = words.last_mut()
        {
            word.extend(letter.to_lowercase());
        }
        was_lower = letter.is_lowercase() || letter.is_ascii_digit();
    }
    words.into_iter().filter(|word| !word.is_empty())
}

/// The names in one file, without its comments and strings.
#[derive(Default)]
struct Names {
    /// Each identifier, with the line of its first use.
    identifiers: BTreeMap<String, usize>,
    types: BTreeSet<String>,
    /// Each test, with its line.
    tests: Vec<(String, usize)>,
}

impl Names {
    fn of(text: &str) -> Result<Self, String> {
        let tokens = TokenStream::from_str(text).map_err(|error| error.to_string())?;
        let mut names = Self::default();
        names.add(tokens);
        Ok(names)
    }

    fn add(&mut self, tokens: TokenStream) {
        // The identifier before this one, and whether a test attribute stands before the next function.
        let (mut before, mut is_test) = (String::new(), false);
        // Whether the next group lists the tests of a program with a harness of its own: `tests![..]`.
        let mut lists_tests = false;
        for token in tokens {
            match token {
                TokenTree::Ident(identifier) => {
                    let (name, line) = (identifier.to_string(), identifier.span().start().line);
                    self.identifiers.entry(name.clone()).or_insert(line);
                    match before.as_str() {
                        "struct" | "enum" | "trait" | "union" => {
                            self.types.insert(name.clone());
                        }
                        "fn" if std::mem::take(&mut is_test) => self.tests.push((name.clone(), line)),
                        _ => {}
                    }
                    before = name;
                }
                TokenTree::Group(group) => {
                    is_test |=
                        group.delimiter() == Delimiter::Bracket && group.stream().to_string() == "test";
                    if std::mem::take(&mut lists_tests) {
                        self.add_listed(group.stream());
                    }
                    self.add(group.stream());
                    before.clear();
                }
                TokenTree::Punct(mark) => {
                    lists_tests = mark.as_char() == '!' && before == "tests";
                    before.clear();
                }
                TokenTree::Literal(_) => before.clear(),
            }
        }
    }

    /// Adds the last identifier of each path in a list.
    fn add_listed(&mut self, list: TokenStream) {
        let mut last = None;
        for token in list {
            match token {
                TokenTree::Ident(test) => last = Some((test.to_string(), test.span().start().line)),
                TokenTree::Punct(mark) if mark.as_char() == ',' => self.tests.extend(last.take()),
                TokenTree::Punct(_) | TokenTree::Group(_) | TokenTree::Literal(_) => {}
            }
        }
        self.tests.extend(last);
    }

    fn long_tests(&self) -> impl Iterator<Item = String> {
        let long = self.tests.iter().filter(|(name, _)| words(name).count() > TEST_NAME_WORDS_MAX);
        long.map(|(name, line)| {
            format!("{line}: the test `{name}` has a name of more than {TEST_NAME_WORDS_MAX} words")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Glossary, Names, words};

    const GLOSSARY: &str = "# Glossary\n\n## Words with two homes\n\n| `Key`, `Time` | two crates |\n\n## Private words\n\n`told`, `who`\n";

    fn findings(code: &str) -> Vec<String> {
        let names = Names::of(code).expect("it is Rust");
        let glossary = Glossary::parse(GLOSSARY).expect("it is complete");
        glossary.private_in(&names).chain(names.long_tests()).collect()
    }

    #[test]
    fn identifiers_split_into_words() {
        let of = |name| words(name).collect::<Vec<_>>();
        assert_eq!(of("is_told_toHTTPPeer2Go"), ["is", "told", "to", "httppeer2", "go"]);
        assert_eq!(of("MAX_LEN"), ["max", "len"]);
    }

    #[test]
    fn private_words_count_in_code_only() {
        let code = "/// told\nfn is_told() { let whole = \"who\"; } // who\n";
        assert_eq!(findings(code), ["2: `is_told` contains the private word `told`"]);
        assert_eq!(findings("struct WhoWas;").len(), 1);
        assert_eq!(findings("let whos = 1;"), ["1: `whos` contains the private word `whos`"]);
    }

    #[test]
    fn test_with_nine_words_is_found() {
        let long = "#[test] fn a_b_c_d_e_f_g_h_i() {} #[test] fn short() {} fn a_b_c_d_e_f_g_h_i_j() {}";
        let expected = ["1: the test `a_b_c_d_e_f_g_h_i` has a name of more than 8 words"];
        assert_eq!(findings(long), expected);
        assert_eq!(findings("run(tests![short, module::a_b_c_d_e_f_g_h_i])"), expected);
    }

    #[test]
    fn forbidden_import_is_found_outside_of_comments() {
        let forbidden =
            super::must_not_import("//! Must not import: `socket`, `thread`.\n//! Uses `timers`.\n");
        assert_eq!(forbidden.len(), 2);
        let code =
            "/// crate::socket\nuse crate::sockets::A;\nuse crate::timers;\nlet a = crate::thread::run();\n";
        let found: Vec<String> = super::imported(code, &forbidden).collect();
        assert_eq!(super::imported("use crate::{id::Key, socket, thread::Handle};\n", &forbidden).count(), 2);
        assert_eq!(found, ["4: imports `thread`, which the head of its `mod.rs` forbids"]);
    }

    #[test]
    fn impure_path_is_found_outside_of_tests() {
        let of = |code| super::impure(code).expect("it is Rust").len();
        assert_eq!(of("use std::{env, net::{TcpStream, IpAddr}, fs::File};"), 3);
        assert_eq!(of("fn f() { g(std::time::Instant::now(), [x::SystemTime::UNIX_EPOCH]); }"), 2);
        assert_eq!(of("thread_local! { static A: u8 = 1; } use std::fmt; // std::env"), 1);
        assert_eq!(of("use std::time::Instant; fn now(environment: Env) { env::a(\"std::env\") }"), 0);
        assert_eq!(of("#[cfg(test)] mod tests { use std::env; } #[cfg(test)] use std::fs; use std::fs;"), 1);
        let found = super::impure("\nuse std::env;").expect("it is Rust");
        assert!(found[0].starts_with("2: uses `std::env`"), "{found:?}");
    }

    #[test]
    fn missing_folder_or_glossary_section_is_an_error() {
        let missing = std::path::Path::new("no-such-folder");
        assert!(
            super::collect(missing, &mut Vec::new()).is_err_and(|error| error.contains("no-such-folder"))
        );
        assert!(Glossary::parse("# Glossary").is_err_and(|error| error.contains("no heading")));
        let empty = GLOSSARY.replace('`', "");
        assert!(Glossary::parse(&empty).is_err_and(|error| error.contains("no private words")));
    }

    #[test]
    fn type_in_two_files_is_found() {
        let glossary = Glossary::parse(GLOSSARY).expect("it is complete");
        let files = |name: &str| (name.to_owned(), ["a.rs".to_owned(), "b.rs".to_owned()].into());
        let types = [files("Key"), files("Link")].into();
        assert_eq!(
            glossary.doubles(&types).collect::<Vec<_>>(),
            ["the type `Link` is defined in a.rs and b.rs"]
        );
        assert!(Names::of("mod m { pub enum Link {} }").expect("it is Rust").types.contains("Link"));
    }
}
