//! Prints the hash of a file in lower-case hexadecimal digits: `hash ALGORITHM FILE`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};

const BUFFER_BYTES: usize = 1 << 16;

const USAGE: &str = "hash: usage: hash ALGORITHM FILE";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [algorithm, file] = args.as_slice() else {
        eprintln!("{USAGE}: {} arguments were given, not two", args.len());
        return ExitCode::from(2);
    };
    let Some(hash) = hash_by(algorithm) else {
        let names = ALGORITHMS.map(|(name, _)| name).join(", ");
        eprintln!("{USAGE}: {algorithm:?} is not one of {names}");
        return ExitCode::from(2);
    };
    let digest = match File::open(file).and_then(hash) {
        Ok(digest) => digest,
        Err(error) => {
            eprintln!("hash: can't read {file}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    match io::stdout().write_all(format!("{digits}\n").as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hash: can't write the result: {error}");
            ExitCode::FAILURE
        }
    }
}

type Hash = fn(File) -> io::Result<Vec<u8>>;

const ALGORITHMS: [(&str, Hash); 9] = [
    ("sha224", digest::<Sha224>),
    ("sha256", digest::<Sha256>),
    ("sha384", digest::<Sha384>),
    ("sha512", digest::<Sha512>),
    ("sha3-224", digest::<Sha3_224>),
    ("sha3-256", digest::<Sha3_256>),
    ("sha3-384", digest::<Sha3_384>),
    ("sha3-512", digest::<Sha3_512>),
    ("blake3", blake3),
];

fn hash_by(algorithm: &str) -> Option<Hash> {
    ALGORITHMS.into_iter().find(|(name, _)| *name == algorithm).map(|(_, hash)| hash)
}

fn digest<D: Digest>(file: File) -> io::Result<Vec<u8>> {
    let mut hasher = D::new();
    chunks(file, |chunk| hasher.update(chunk))?;
    Ok(hasher.finalize().to_vec())
}

fn blake3(file: File) -> io::Result<Vec<u8>> {
    let mut hasher = blake3::Hasher::new();
    chunks(file, |chunk| {
        hasher.update(chunk);
    })?;
    Ok(hasher.finalize().as_bytes().to_vec())
}

fn chunks(mut file: File, mut update: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => update(&buffer[..length]),
        }
    }
}
