//! The lines of a file, sorted, by way of a file in /tmp that is written, read back and removed.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).expect("usage: words FILE");
    let text = fs::read_to_string(path)?;
    fs::create_dir_all("work/deep")?;
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open("/tmp/copy")?;
    file.write_all(b"-----")?;
    file.write_all(text.as_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(b"+++++")?;
    fs::rename("/tmp/copy", "work/deep/moved")?;
    assert!(fs::metadata("/tmp/copy").is_err());
    assert_eq!(fs::metadata("/work/deep/moved")?.len(), text.len() as u64 + 5);
    let mut back = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_string(&mut back)?;
    assert_eq!(&back[..5], "+++++");
    let names: Vec<_> = fs::read_dir("/")?.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["grid", "in", "out", "tmp", "work"]);
    fs::remove_dir_all("work")?;
    let mut lines = BTreeMap::<&str, usize>::new();
    for line in back[5..].lines() {
        *lines.entry(line).or_default() += 1;
    }
    for (line, times) in lines {
        (0..times).for_each(|_| println!("{line}"));
    }
    Ok(())
}
