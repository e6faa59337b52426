//! `cargo xtask structure`: figures about the structure of a crate, to compare before and after a change.
//!
//! It prints the types with the most methods, the largest circle of files in a folder by their method calls, the files that
//! name the table of peers, and the lines of each crate. It reads tokens, and resolves no types. So the calls are a
//! heuristic: `self.method(` counts for the type of the `impl` block, `Type::method(` for that type, and `value.method(` only
//! if one type of the folder alone has a method of that name, and the collections of std have none. Items behind `#[cfg(test)]` do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};

use crate::tidy::{collect, is_test_attribute, read, root};

/// The types that are listed.
const TYPES_LISTED: usize = 8;

/// Methods of std. A call of one on any value says nothing about its type.
const STD_METHODS: [&str; 28] = [
    "add", "all", "at", "clear", "contains", "drain", "end", "entry", "extend", "first", "get", "get_mut",
    "insert", "is_empty", "iter", "iter_mut", "keys", "last", "len", "next", "pop", "push", "range",
    "remove", "replace", "retain", "take", "values",
];

#[derive(Args)]
pub(crate) struct Options {
    /// The crate whose types are counted.
    #[arg(default_value = "antiphon-dist")]
    name: String,
    /// The folder under the crate's `src` whose circle of files is computed; `.` for all of it.
    #[arg(long, default_value = "node")]
    folder: String,
    /// The type that is the table of peers.
    #[arg(long, default_value = "Peers")]
    table: String,
}

/// Prints the figures.
pub(crate) fn run(options: &Options) -> ExitCode {
    match print(&root(), options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("structure: failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(root: &Path, options: &Options) -> Result<(), String> {
    let src = root.join("crates").join(&options.name).join("src");
    let sources = sources_of(&src)?;
    println!("types of {} with the most methods:", options.name);
    println!("{:>13} {:>8} {:>6}  type", "impl blocks", "methods", "files");
    let mut types: Vec<(String, TypeSize)> = sizes(&sources).into_iter().collect();
    types.sort_by_key(|(_, size)| std::cmp::Reverse((size.methods, size.impl_blocks)));
    for (name, size) in types.iter().take(TYPES_LISTED) {
        println!("{:>13} {:>8} {:>6}  {name}", size.impl_blocks, size.methods, size.files.len());
    }

    let folder = src.join(&options.folder);
    let inside: Vec<&Source> =
        sources.iter().filter(|source| options.folder == "." || source.path.starts_with(&folder)).collect();
    let circle = largest_circle(&calls(&inside));
    println!(
        "\nlargest circle by method calls in {}/: {} of {} files",
        options.folder,
        circle.len(),
        inside.len()
    );
    print_files(&src, circle.iter().map(|index| inside[*index]));

    let naming: Vec<&Source> = inside.iter().filter(|source| source.names(&options.table)).copied().collect();
    println!("\nfiles in {}/ that name the type `{}`: {}", options.folder, options.table, naming.len());
    print_files(&src, naming.into_iter());

    println!("\n{:>12} {:>10}  crate", "code lines", "all lines");
    let mut crates: Vec<PathBuf> = fs::read_dir(root.join("crates"))
        .map_err(|error| error.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    crates.sort();
    let mut sum = (0, 0);
    for path in crates {
        let code: usize = sources_of(&path.join("src"))?.iter().map(|source| source.code_lines.len()).sum();
        let mut files = Vec::new();
        collect(&path, &mut files)?;
        let mut all = 0;
        for file in &files {
            all += read(file)?.lines().count();
        }
        sum = (sum.0 + code, sum.1 + all);
        println!("{code:>12} {all:>10}  {}", path.file_name().unwrap_or_default().display());
    }
    println!("{:>12} {:>10}  together", sum.0, sum.1);
    Ok(())
}

fn print_files<'s>(src: &Path, sources: impl Iterator<Item = &'s Source>) {
    let names: Vec<String> = sources
        .map(|source| source.path.strip_prefix(src).unwrap_or(&source.path).display().to_string())
        .collect();
    if !names.is_empty() {
        println!("  {}", names.join(", "));
    }
}

/// The sources below a folder, without files that only tests use.
fn sources_of(src: &Path) -> Result<Vec<Source>, String> {
    let mut files = Vec::new();
    collect(src, &mut files)?;
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        let source =
            Source::of(&file, &read(&file)?).map_err(|error| format!("{}: {error}", file.display()))?;
        sources.push(source);
    }
    let of_tests: BTreeSet<PathBuf> = sources.iter().flat_map(Source::test_modules).collect();
    sources.retain(|source| !of_tests.iter().any(|module| source.is_in(module)));
    Ok(sources)
}

/// What one file contains, without its tests.
struct Source {
    path: PathBuf,
    /// Each inherent `impl` block.
    impls: Vec<ImplBlock>,
    /// The identifiers outside of `use` declarations.
    identifiers: BTreeSet<String>,
    /// The modules that are only declared for tests.
    test_modules: Vec<String>,
    /// The lines with code.
    code_lines: BTreeSet<usize>,
}

struct ImplBlock {
    /// The type, without its path and parameters.
    of: String,
    methods: BTreeSet<String>,
    calls: Vec<Call>,
}

struct Call {
    target: CallTarget,
    method: String,
}

/// What stands before the name of a called method.
enum CallTarget {
    /// `self.` or `Self::`
    Own,
    /// A path: `Type::`
    Type(String),
    /// Any other value.
    Value,
}

/// A type, by the parts of it that files contain.
#[derive(Default)]
struct TypeSize {
    impl_blocks: usize,
    methods: usize,
    files: BTreeSet<PathBuf>,
}

fn sizes(sources: &[Source]) -> BTreeMap<String, TypeSize> {
    let mut types = BTreeMap::<String, TypeSize>::new();
    for source in sources {
        for block in &source.impls {
            let size = types.entry(block.of.clone()).or_default();
            size.impl_blocks += 1;
            size.methods += block.methods.len();
            size.files.insert(source.path.clone());
        }
    }
    types
}

/// For each source, the others whose methods it calls.
fn calls(sources: &[&Source]) -> Vec<BTreeSet<usize>> {
    // For each method, the types that have it, and where.
    let mut methods = BTreeMap::<&str, BTreeSet<(&str, usize)>>::new();
    for (index, source) in sources.iter().enumerate() {
        for block in &source.impls {
            for method in &block.methods {
                methods.entry(method).or_default().insert((&block.of, index));
            }
        }
    }
    let called = |block: &ImplBlock, call: &Call| {
        let homes = methods.get(call.method.as_str())?;
        let of_type = |name: &str| homes.iter().find(|(of, _)| *of == name).map(|(_, index)| *index);
        match &call.target {
            CallTarget::Own => of_type(&block.of),
            CallTarget::Type(name) => of_type(name),
            CallTarget::Value if STD_METHODS.contains(&call.method.as_str()) => None,
            CallTarget::Value => (homes.len() == 1).then(|| homes.first().map(|(_, index)| *index)).flatten(),
        }
    };
    let of_source = |source: &&Source| {
        let all = source.impls.iter().flat_map(|block| block.calls.iter().map(move |call| (block, call)));
        all.filter_map(|(block, call)| called(block, call)).collect()
    };
    sources.iter().map(of_source).collect()
}

/// The largest set of nodes in which each reaches each other; empty if there is no circle of two.
fn largest_circle(edges: &[BTreeSet<usize>]) -> Vec<usize> {
    let reached = |from: usize| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(node) = next.pop() {
            next.extend(edges[node].iter().filter(|to| seen.insert(**to)));
        }
        seen
    };
    let reach: Vec<BTreeSet<usize>> = (0..edges.len()).map(reached).collect();
    let circle_of = |node: usize| -> Vec<usize> {
        reach[node].iter().copied().filter(|other| *other == node || reach[*other].contains(&node)).collect()
    };
    let circles = (0..edges.len()).map(circle_of).filter(|circle| circle.len() > 1);
    circles.max_by_key(Vec::len).unwrap_or_default()
}

impl Source {
    fn of(path: &Path, text: &str) -> Result<Self, String> {
        let tokens = TokenStream::from_str(text).map_err(|error| error.to_string())?;
        let mut source = Self {
            path: path.to_owned(),
            impls: Vec::new(),
            identifiers: BTreeSet::new(),
            test_modules: Vec::new(),
            code_lines: BTreeSet::new(),
        };
        source.add_items(tokens);
        Ok(source)
    }

    fn names(&self, identifier: &str) -> bool {
        self.identifiers.contains(identifier)
    }

    /// Where the modules of tests are, without an extension.
    fn test_modules(&self) -> impl Iterator<Item = PathBuf> {
        let is_head = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| self.path.ends_with(name));
        let folder = if is_head { self.path.with_file_name("") } else { self.path.with_extension("") };
        self.test_modules.iter().map(move |module| folder.join(module))
    }

    /// Whether this is the file of a module, or in its folder.
    fn is_in(&self, module: &Path) -> bool {
        self.path.starts_with(module) || self.path.with_extension("") == module
    }

    /// Adds the items of a module, without those of tests.
    fn add_items(&mut self, tokens: TokenStream) {
        let mut is_test = false;
        let mut item: Vec<TokenTree> = Vec::new();
        for token in tokens {
            let ends = match &token {
                TokenTree::Punct(mark) => mark.as_char() == ';',
                TokenTree::Group(group) => {
                    let is_attribute = matches!(item.last(), Some(TokenTree::Punct(mark)) if mark.as_char() == '#' || mark.as_char() == '!')
                        && group.delimiter() == Delimiter::Bracket;
                    is_test |= is_attribute && is_test_attribute(group);
                    group.delimiter() == Delimiter::Brace && !is_use(&item)
                }
                TokenTree::Ident(_) | TokenTree::Literal(_) => false,
            };
            item.push(token);
            if ends {
                self.add_item(std::mem::take(&mut item), std::mem::take(&mut is_test));
            }
        }
        self.add_item(item, is_test);
    }

    fn add_item(&mut self, item: Vec<TokenTree>, is_test: bool) {
        let item = without_attributes(item);
        let word = |index: usize| match item.get(index) {
            Some(TokenTree::Ident(word)) => word.to_string(),
            Some(_) | None => String::new(),
        };
        let at = (0..item.len()).find(|index| {
            matches!(word(*index).as_str(), "mod" | "impl" | "fn" | "struct" | "enum" | "trait")
        });
        let keyword = at.map(word).unwrap_or_default();
        if is_test {
            if keyword == "mod" {
                self.test_modules.extend(at.map(|at| word(at + 1)));
            }
            return;
        }
        self.add_lines(item.iter().cloned().collect());
        let is_use = is_use(&item);
        if let (Some(at), Some(TokenTree::Group(body))) = (at, item.last())
            && body.delimiter() == Delimiter::Brace
        {
            match keyword.as_str() {
                "mod" => return self.add_items(body.stream()),
                "impl" => self.add_impl(&item[at + 1..item.len() - 1], body.stream()),
                _ => {}
            }
        }
        if !is_use {
            self.add_identifiers(item.into_iter().collect());
        }
    }

    fn add_impl(&mut self, head: &[TokenTree], body: TokenStream) {
        let Some(of) = type_of_inherent_impl(head) else { return };
        let mut block = ImplBlock { of, methods: BTreeSet::new(), calls: Vec::new() };
        let mut after_fn = false;
        for token in body.clone() {
            if let TokenTree::Ident(word) = &token {
                if std::mem::take(&mut after_fn) {
                    block.methods.insert(word.to_string());
                }
                after_fn = word == "fn";
            }
        }
        add_calls(body, &mut block.calls);
        self.impls.push(block);
    }

    fn add_identifiers(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Ident(word) => {
                    self.identifiers.insert(word.to_string());
                }
                TokenTree::Group(group) => self.add_identifiers(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    /// Adds the lines of tokens, without attributes and comments.
    fn add_lines(&mut self, tokens: TokenStream) {
        let mut add = |span: Span| self.code_lines.extend(span.start().line..=span.end().line);
        let mut groups = Vec::new();
        for token in without_attributes(tokens.into_iter().collect()) {
            match token {
                TokenTree::Group(group) => {
                    add(group.span_open());
                    add(group.span_close());
                    groups.push(group);
                }
                other => add(other.span()),
            }
        }
        groups.into_iter().for_each(|group| self.add_lines(group.stream()));
    }
}

fn is_use(item: &[TokenTree]) -> bool {
    let words = item.iter().filter_map(|token| match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    });
    words.take(2).any(|word| word == "use")
}

/// The tokens without attributes; comments of the documentation are attributes too.
fn without_attributes(tokens: Vec<TokenTree>) -> Vec<TokenTree> {
    let mut kept: Vec<TokenTree> = Vec::new();
    for token in tokens {
        let is_mark = |token: Option<&TokenTree>, mark: char| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == mark);
        if matches!(&token, TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket) {
            let has_bang = is_mark(kept.last(), '!') && is_mark(kept.iter().rev().nth(1), '#');
            if has_bang || is_mark(kept.last(), '#') {
                kept.truncate(kept.len() - 1 - usize::from(has_bang));
                continue;
            }
        }
        kept.push(token);
    }
    kept
}

/// The type of an `impl` block from what stands between `impl` and its body; `None` if the block implements a trait.
fn type_of_inherent_impl(head: &[TokenTree]) -> Option<String> {
    let (mut depth, mut name, mut before) = (0_usize, None, ' ');
    for token in head {
        match token {
            TokenTree::Punct(mark) => {
                match mark.as_char() {
                    '<' => depth += 1,
                    '>' if before != '-' && before != '=' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                before = mark.as_char();
            }
            TokenTree::Ident(word) if depth == 0 => match word.to_string().as_str() {
                "for" => return None,
                "where" => break,
                word => name = Some(word.to_owned()),
            },
            TokenTree::Ident(_) | TokenTree::Group(_) | TokenTree::Literal(_) => {}
        }
    }
    name
}

/// Adds the calls of methods: a name before a group in parentheses, behind a dot or a path.
fn add_calls(tokens: TokenStream, calls: &mut Vec<Call>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let word = |index: Option<usize>| match index.and_then(|index| tokens.get(index)) {
        Some(TokenTree::Ident(word)) => Some(word.to_string()),
        Some(_) | None => None,
    };
    let is_mark = |index: Option<usize>, mark: char| matches!(index.and_then(|index| tokens.get(index)), Some(TokenTree::Punct(punct)) if punct.as_char() == mark);
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        add_calls(group.stream(), calls);
        let Some(method) = word(at.checked_sub(1)).filter(|_| group.delimiter() == Delimiter::Parenthesis)
        else {
            continue;
        };
        let target = if is_mark(at.checked_sub(2), '.') {
            match word(at.checked_sub(3)) {
                Some(value) if value == "self" && !is_mark(at.checked_sub(4), '.') => CallTarget::Own,
                Some(_) | None => CallTarget::Value,
            }
        } else if is_mark(at.checked_sub(2), ':') {
            match word(at.checked_sub(4)) {
                Some(name) if name == "Self" => CallTarget::Own,
                Some(name) => CallTarget::Type(name),
                None => continue,
            }
        } else {
            continue;
        };
        calls.push(Call { target, method });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source::of(Path::new(name), text).expect("it is Rust")
    }

    #[test]
    fn type_sizes_count_inherent_impls() {
        let text = "impl<T: Fn() -> u8> a::One<T> where T: Copy { fn a(&self) {} pub fn b() { fn c() {} } } \
                    impl Drop for One<u8> { fn drop(&mut self) {} } \
                    #[cfg(test)] mod tests { impl One<u8> { fn d(&self) {} } }";
        let sizes = sizes(&[source("a.rs", text), source("b.rs", "impl One<u8> { fn e(&self) {} }")]);
        let one = &sizes["One"];
        assert_eq!((sizes.len(), one.impl_blocks, one.methods, one.files.len()), (1, 2, 3, 2));
    }

    #[test]
    fn circle_holds_files_that_call_each_other() {
        let sources = [
            source("a.rs", "impl One { fn a(&self) { self.b(); } }"),
            source("b.rs", "impl One { fn b(&self, two: Two) { if true { two.c(); } } }"),
            source("c.rs", "impl Two { fn c(&self) { One::a(); Two::new(); } fn new() {} }"),
            source("d.rs", "impl Three { fn new() { One::a(); } fn e(&self) { x.new(); } }"),
        ];
        let sources: Vec<&Source> = sources.iter().collect();
        assert_eq!(largest_circle(&calls(&sources)), [0, 1, 2]);
        assert!(largest_circle(&calls(&sources[..2])).is_empty());
    }

    #[test]
    fn code_lines_exclude_comments_and_tests() {
        let text = "//! Head.\n\n/// Doc.\n#[derive(Debug)]\nstruct A {\n    // Comment.\n    /// Doc.\n    b: u8,\n}\n\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
        let source = source("a.rs", text);
        assert_eq!(source.code_lines.into_iter().collect::<Vec<_>>(), [5, 8, 9]);
    }

    #[test]
    fn names_in_imports_and_tests_do_not_count() {
        let text = "use super::peers::{Peers, Other}; #[cfg(test)] fn f(p: Peers) {} fn g() {}";
        assert!(!source("a.rs", text).names("Peers"));
        assert!(source("a.rs", "fn g(peers: &mut Peers) {}").names("Peers"));
    }

    #[test]
    fn files_of_test_modules_do_not_count() {
        let head = source("src/node/mod.rs", "#[cfg(test)] mod testing; mod peer;");
        let modules: Vec<PathBuf> = head.test_modules().collect();
        assert_eq!(modules, [Path::new("src/node/testing")]);
        assert!(source("src/node/testing.rs", "").is_in(&modules[0]));
        assert!(!source("src/node/peer.rs", "").is_in(&modules[0]));
    }
}
