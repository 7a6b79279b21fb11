//! `gridfs demo`: the main job, shown in a temporary home and mount, by the commands a user would type.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Code, Error, Result};

const POEM: &str = "\
# Two roads

Two roads *diverged* in a yellow wood,
And sorry I could not travel both
";

/// A home and a mount point that disappear when it is dropped.
struct Stage {
    directory: PathBuf,
}

impl Stage {
    fn new() -> Result<Stage> {
        let directory = std::env::temp_dir().join(format!("gridfs-demo-{}", std::process::id()));
        let made = std::fs::create_dir(&directory).and_then(|()| std::fs::create_dir(directory.join("grid")));
        made.map_err(|e| Error::caused(Code::General, format!("can't create {}", directory.display()), e))?;
        Ok(Stage { directory })
    }

    fn mount(&self) -> PathBuf {
        self.directory.join("grid")
    }

    /// Shows a command line, runs it in a shell, and fails if it does.
    fn run(&self, line: &str) -> Result<()> {
        println!("\n$ {line}");
        let status = self.shell(line).status();
        let status = status.map_err(|e| Error::caused(Code::General, "can't run a shell", e))?;
        if status.success() { Ok(()) } else { Err(Error::new(Code::General, format!("`{line}` ended with {status}"))) }
    }

    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-ec", line]).current_dir(&self.directory).env("GRID_HOME", self.directory.join("home"));
        let program = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = program.into_iter().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(paths).unwrap_or(path));
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if gridfs_fuse::is_mounted(&self.mount()).unwrap_or(false) {
            let _ = self.shell("gridfs umount grid").status(); // the next line says if it is still there
        }
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            eprintln!("can't remove {}: {error}", self.directory.display());
        }
    }
}

/// Runs the demonstration.
pub(crate) fn run() -> Result<()> {
    let stage = Stage::new()?;
    let failed = |e| Error::caused(Code::General, "can't write sample data", e);
    std::fs::write(stage.directory.join("roads.md"), POEM).map_err(failed)?;
    println!("A grid in {}: a home, a mount, some data, and calls made by reading files.", stage.directory.display());
    stage.run("gridfs mount grid")?;
    stage.run("gridfs put --name roads.md roads.md")?;
    stage.run("cat grid/local/wc/roads.md")?;
    stage.run("cat grid/local/md/roads.md")?;
    stage.run("cat grid/local/grep/road/roads.md,-n")?;
    println!("\nA module's result can be another's argument: the path, encoded.");
    stage.run("cat grid/local/sha256/%2Flocal%2Fmd%2Froads.md; gridfs get /local/md/roads.md | sha256sum")?;
    println!("\nA directory, stored and browsed; an archive, unpacked by reading it.");
    stage.run("mkdir -p src/lib && cp roads.md src && echo 'int main(void){}' > src/lib/a.c && tar czf src.tgz src")?;
    stage.run("gridfs put --name src src && gridfs put --name src.tgz src.tgz")?;
    stage.run("diff -r src grid/local/cas/src && diff -r src grid/local/untar/src.tgz/src && ls -lR grid/local/untar/src.tgz/")?;
    println!("\nEvery name leads to a path of CIDs, which stays valid for ever.");
    stage.run("readlink -f grid/local/wc/roads.md")?;
    println!("\nA second read runs nothing.");
    stage.run("gridfs stats | grep run; cat grid/local/wc/roads.md; gridfs stats | grep run")?;
    stage.run("gridfs umount grid")
}
