//! New projects: the files below `templates/`, with the module's name for `NAME`.

use std::path::Path;

use super::Language;
use crate::error::{Code, Error, Result};

/// Longest name of a new module.
const MAX_NAME_BYTES: usize = 64;

/// Files of every project: path and content.
const COMMON: &[(&str, &str)] = &[
    (".gitignore", include_str!("templates/gitignore")),
    ("README.md", include_str!("templates/README.md")),
    ("manifest.toml", include_str!("templates/manifest.toml")),
    ("tests/empty/args", include_str!("templates/tests/empty/args")),
    ("tests/empty/empty.txt", include_str!("templates/tests/empty/empty.txt")),
    ("tests/empty/expected", include_str!("templates/tests/empty/expected")),
    ("tests/words/args", include_str!("templates/tests/words/args")),
    ("tests/words/expected", include_str!("templates/tests/words/expected")),
    ("tests/words/words.txt", include_str!("templates/tests/words/words.txt")),
];

/// Files of the projects in one language, the program first.
fn files(language: Language) -> &'static [(&'static str, &'static str)] {
    match language {
        Language::Rust => &[
            ("src/main.rs", include_str!("templates/rust/src/main.rs")),
            ("Cargo.toml", include_str!("templates/rust/Cargo.toml")),
        ],
        Language::C => &[("src/main.c", include_str!("templates/c/src/main.c"))],
        Language::AssemblyScript => &[
            ("assembly/index.ts", include_str!("templates/assemblyscript/assembly/index.ts")),
            ("asconfig.json", include_str!("templates/assemblyscript/asconfig.json")),
            ("package.json", include_str!("templates/assemblyscript/package.json")),
        ],
        Language::Wat => &[("src/main.wat", include_str!("templates/wat/src/main.wat"))],
    }
}

/// Writes a project into a directory, which must not exist yet.
pub fn write(name: &str, language: Language, directory: &Path) -> Result<()> {
    check_name(name)?;
    let failed = |path: &Path, e| Error::caused(Code::General, format!("can't create {}", path.display()), e);
    if let Some(parent) = directory.parent() {
        std::fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
    }
    std::fs::create_dir(directory).map_err(|e| failed(directory, e))?;
    let own = files(language);
    for (path, content) in COMMON.iter().chain(own) {
        let content = match *path {
            "README.md" => &content.replace("NEEDS", language.needs()).replace("SOURCE", own[0].0),
            _ => *content,
        };
        let path = directory.join(path);
        let parent = path.parent().expect("a file in a directory");
        std::fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
        std::fs::write(&path, content.replace("NAME", name)).map_err(|e| failed(&path, e))?;
    }
    Ok(())
}

/// A name that suits the manifest, cargo and npm.
fn check_name(name: &str) -> Result<()> {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
    if letters && name.starts_with(|first: char| first.is_ascii_lowercase()) && name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    let why = format!("{name:?} can't be the name: a letter a to z, then up to 63 of a to z, 0 to 9, - and _");
    Err(Error::new(Code::Usage, why))
}
