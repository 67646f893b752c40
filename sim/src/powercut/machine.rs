//! A disk that logs what it is told: a file that QEMU's storage daemon exports over FUSE, below a
//! loop device, below a file system.
//!
//! Everything is a plain file in one folder. Promises: what is mounted is unmounted and the daemon
//! ended when their values are dropped; and when the process is killed too, since mounts lie in a
//! namespace of its own ([`enter`]) and the daemon is told to die with it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Failure;

/// Behind the file system lie the marks of what was acked, on the same disk: so they stand in its
/// log where they belong.
pub(super) const MARKS_BYTES: u64 = 64 << 20;
/// More than any run logs.
const LOG_BYTES: u64 = 64 << 30;
const INSIDE: &str = "TRACKLOG_POWERCUT_INSIDE";

/// The file systems that it is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4, with its journal.
    Ext4,
    /// XFS.
    Xfs,
}

impl FileSystem {
    /// Its name in `mount`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Ext4, Self::Xfs].into_iter().find(|it| it.name() == name)
    }

    /// Its size. XFS is made no smaller.
    pub(super) const fn bytes(self) -> u64 {
        match self {
            Self::Ext4 => 128 << 20,
            Self::Xfs => 300 << 20,
        }
    }

    fn make(self, image: &Path) -> Result<(), Failure> {
        let file = File::create(image).map_err(Failure::io("make the disk"))?;
        file.set_len(self.bytes()).map_err(Failure::io("make the disk"))?;
        let (program, arguments): (_, &[&str]) = match self {
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,nodiscard"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
        };
        run(Command::new(program).args(arguments).arg(image))
    }
}

/// Goes on in a namespace of mounts of its own: returns there, or says why not.
pub(super) fn enter() -> Result<(), Failure> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().map_err(Failure::io("find the program"))?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(Failure::Missing(format!("unshare: {error}")))
}

/// The programs that it takes, and being root.
pub(super) fn require(file_system: FileSystem) -> Result<(), Failure> {
    let made = format!("mkfs.{}", file_system.name());
    for program in ["qemu-storage-daemon", "unshare", "setpriv", "mount", "umount", &made] {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
        });
        if !found {
            return Err(Failure::Missing(format!("there is no {program}")));
        }
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        File::options()
            .read(true)
            .write(true)
            .open(device)
            .map_err(|error| Failure::Missing(format!("{device}: {error} (root is needed)")))?;
    }
    Ok(())
}

/// A folder with the disk, its log, and where it is mounted.
pub(super) struct Machine {
    pub(super) folder: PathBuf,
    pub(super) file_system: FileSystem,
}

impl Machine {
    /// The disk as it was before it was logged.
    pub(super) fn before(&self) -> PathBuf {
        self.folder.join("before.img")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log.img")
    }

    /// The disk that logs, as a file.
    pub(super) fn exported(&self) -> PathBuf {
        self.folder.join("exported.img")
    }

    /// The disk after a cut.
    pub(super) fn after_cut(&self) -> PathBuf {
        self.folder.join("cut.img")
    }

    /// Makes the file system, and a disk that logs from now on.
    pub(super) fn start(&self) -> Result<Daemon, Failure> {
        let io = |doing| Failure::io(doing);
        self.file_system.make(&self.before())?;
        let disk = self.folder.join("disk.img");
        std::fs::copy(self.before(), &disk).map_err(io("copy the disk"))?;
        let grown = File::options().write(true).open(&disk).map_err(io("open the disk"))?;
        let bytes = self.file_system.bytes() + MARKS_BYTES;
        grown.set_len(bytes).map_err(io("make room for marks"))?;
        let log = File::create(self.log()).map_err(io("make the log"))?;
        log.set_len(LOG_BYTES).map_err(io("make the log"))?;
        File::create(self.exported()).map_err(io("make the exported file"))?;
        Daemon::start(&self.folder, &self.exported(), bytes)
    }

    /// Mounts the file system in `image`.
    pub(super) fn mount(&self, image: &Path) -> Result<Mounted, Failure> {
        let at = self.folder.join("mounted");
        std::fs::create_dir_all(&at).map_err(Failure::io("make the mount point"))?;
        let options = format!("loop,sizelimit={}", self.file_system.bytes());
        let mut mount = Command::new("mount");
        mount.args(["-t", self.file_system.name(), "-o", &options]).arg(image).arg(&at);
        run(&mut mount)?;
        Ok(Mounted { at })
    }
}

/// A mounted file system, until it is dropped.
pub(super) struct Mounted {
    pub(super) at: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(failure) = run(Command::new("umount").arg(&self.at)) {
            eprintln!("{failure}");
        }
    }
}

/// The storage daemon, until it is dropped.
pub(super) struct Daemon(Child);

impl Daemon {
    fn start(folder: &Path, exported: &Path, bytes: u64) -> Result<Self, Failure> {
        let export = format!(
            "type=fuse,id=export,node-name=logged,writable=on,mountpoint={}",
            exported.display()
        );
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-storage-daemon"])
            .args(["--blockdev", "driver=file,node-name=disk,filename=disk.img"])
            .args(["--blockdev", "driver=file,node-name=log,filename=log.img"])
            .args(["--blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log"])
            .args(["--export", &export])
            .current_dir(folder)
            .stdin(Stdio::null())
            .spawn()
            .map_err(Failure::io("start the storage daemon"))?;
        let mut daemon = Self(child);
        let began = Instant::now();
        // What it exports shows in place of an empty file.
        while exported.metadata().map_or(0, |it| it.len()) != bytes {
            let ended = daemon.0.try_wait().map_err(Failure::io("look at the storage daemon"))?;
            if let Some(status) = ended {
                return Err(Failure::Missing(format!("the storage daemon ended: {status}")));
            }
            if began.elapsed() > Duration::from_secs(20) {
                return Err(Failure::Missing("the storage daemon exports nothing".to_owned()));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// Ends it in good order: the log's head is written then.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        run(Command::new("kill").arg(self.0.id().to_string()))?;
        self.0.wait().map(drop).map_err(Failure::io("wait for the storage daemon"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already ended, or to be ended: either is fine.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let name = command.get_program().to_owned();
    let failed = |why: String| Failure::Failed(format!("{}: {why}", Path::new(&name).display()));
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = OsStr::to_string_lossy(&name).into_owned();
            return Err(Failure::Missing(format!("there is no {name}")));
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
