//! Machines with something wrong.

use std::ffi::OsString;

use super::*;

/// A machine of files, and the environment on it.
struct Patient {
    directory: tempfile::TempDir,
    variables: Vec<(&'static str, OsString)>,
}

fn gpu(free_bytes: u64) -> Gpu {
    let (name, cuda_version) = ("H".to_owned(), "12.9".to_owned());
    Gpu { name, cuda_version, free_bytes, total_bytes: 80 << 30 }
}

impl Patient {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        let variables =
            vec![("HOME", directory.path().into()), ("SCONCE_HOME", home.clone().into_os_string())];
        crate::store::files::create_private(&home).unwrap();
        let patient = Self { directory, variables };
        patient.put("/proc/meminfo", "MemAvailable: 16777216 kB\n");
        patient.put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        patient
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn examine(&self) -> Vec<Finding> {
        self.examine_with("avx2")
    }

    fn examine_with(&self, isa: &str) -> Vec<Finding> {
        let settings = Settings::from_lookup(&|name| {
            let found = self.variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.clone())
        });
        let subject = Subject {
            settings,
            isa: isa.to_owned(),
            gpus: vec![Ok(gpu(60 << 30)), Ok(gpu(1 << 20)), Err("it fell off the bus".to_owned())],
            listen: "127.0.0.1:0".parse().unwrap(),
            root: self.directory.path().to_owned(),
        };
        subject.examine()
    }

    fn verdict(&self, check: &str) -> (Verdict, String) {
        find(&self.examine(), check)
    }
}

fn find(findings: &[Finding], check: &str) -> (Verdict, String) {
    let finding = findings.iter().find(|finding| finding.check == check).unwrap();
    assert_eq!(finding.remedy.is_none(), finding.verdict == Verdict::Ok, "{finding:?}");
    (finding.verdict, finding.why.clone())
}

#[test]
fn memory_is_what_the_tightest_group_leaves() {
    let patient = Patient::new();
    assert_eq!(patient.verdict("memory").0, Verdict::Ok);

    patient.put("/proc/self/cgroup", "0::/outer/inner\n");
    for (group, limit) in [("", "max"), ("outer/", "3221225472"), ("outer/inner/", "max")] {
        patient.put(&format!("/sys/fs/cgroup/{group}memory.max"), limit);
        patient.put(&format!("/sys/fs/cgroup/{group}memory.current"), "1073741824");
        patient.put(&format!("/sys/fs/cgroup/{group}memory.stat"), "anon 1\nfile 536870912\n");
    }
    let (verdict, why) = patient.verdict("memory");
    assert_eq!(verdict, Verdict::Warn);
    assert!(why.starts_with("2.50 GiB available: a control group's limit of 3.00 GiB"), "{why}");

    patient.put("/sys/fs/cgroup/outer/memory.max", "1000000000");
    assert_eq!(patient.verdict("memory").0, Verdict::Fail);
}

#[test]
fn a_quota_below_the_threads_is_a_warning() {
    let patient = Patient::new();
    assert_eq!(patient.verdict("threads").0, Verdict::Ok);

    patient.put("/sys/fs/cgroup/cpu.max", "50000 100000");
    let (verdict, why) = patient.verdict("threads");

    assert_eq!(verdict, Verdict::Warn);
    assert!(why.contains("0.5 cores"), "{why}");
}

#[test]
fn a_processor_without_vectors_and_a_kernel_without_huge_pages_are_slow() {
    let patient = Patient::new();
    patient.put("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    for node in ["node0", "node1"] {
        patient.put(&format!("/sys/devices/system/node/{node}/cpulist"), "0\n");
    }

    let findings = patient.examine_with("portable");

    for check in ["processor", "huge pages", "numa"] {
        assert_eq!(find(&findings, check).0, Verdict::Warn, "{check}");
    }
}

#[test]
fn a_driver_is_told_by_its_two_halves() {
    let patient = Patient::new();
    assert_eq!(patient.verdict("nvidia").0, Verdict::Ok);

    patient.put("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX  550.54.15  Tue");
    let (verdict, why) = patient.verdict("nvidia");
    assert_eq!(verdict, Verdict::Warn);
    assert!(why.contains("550.54.15"), "{why}");

    patient.put("/usr/lib64/libcuda.so.1", "");
    assert_eq!(patient.verdict("nvidia").0, Verdict::Ok);
}

#[test]
fn a_store_that_others_can_write_and_one_that_cannot_be_read_are_failures() {
    use std::os::unix::fs::PermissionsExt;
    let patient = Patient::new();
    assert_eq!(patient.verdict("SCONCE_HOME").0, Verdict::Ok);
    assert_eq!(patient.verdict("store").0, Verdict::Ok);

    let home = patient.directory.path().join("home");
    for (mode, verdict) in [(0o755, Verdict::Warn), (0o777, Verdict::Fail)] {
        std::fs::set_permissions(&home, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(patient.verdict("SCONCE_HOME").0, verdict, "{mode:o}");
    }
    patient.put("/home/models.lock", "<<<<");
    assert_eq!(patient.verdict("store").0, Verdict::Fail);
}

#[test]
fn a_token_is_judged_and_never_printed() {
    let mut patient = Patient::new();
    patient.variables.push(("HF_TOKEN", "hf_secret".into()));
    assert_eq!(patient.verdict("HF_TOKEN").0, Verdict::Ok);

    patient.variables.push(("HF_ENDPOINT", "http://user:password@hub.example".into()));
    let mut all = patient.examine();
    assert_eq!(find(&all, "HF_ENDPOINT").0, Verdict::Warn);
    patient.variables.pop();
    patient.variables.push(("HF_ENDPOINT", "http://hub.example".into()));
    all.extend(patient.examine());
    assert_eq!(patient.verdict("HF_ENDPOINT").0, Verdict::Fail);
    patient.variables.retain(|(name, _)| *name != "HF_TOKEN");
    patient.variables.push(("HF_TOKEN", "hf_ secret".into()));
    all.extend(patient.examine());
    assert_eq!(patient.verdict("HF_TOKEN").0, Verdict::Fail);

    let said = serde_json::to_string(&all).unwrap();
    assert!(!said.contains("secret") && !said.contains("password@"), "{said}");
}

#[test]
fn a_token_file_that_others_can_read_is_a_warning() {
    let patient = Patient::new();
    patient.put("/.cache/huggingface/token", "hf_secret");

    let (verdict, why) = patient.verdict("HF_TOKEN");

    assert_eq!(verdict, Verdict::Warn);
    assert!(why.contains("huggingface/token"), "{why}");
}

#[test]
fn a_port_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();

    let finding = machine::port(taken.local_addr().unwrap());

    assert_eq!(finding.verdict, Verdict::Warn);
}

#[test]
fn an_environment_that_makes_no_sense_is_a_failure_and_the_rest_is_looked_at() {
    let mut patient = Patient::new();
    patient.variables.push(("HF_ENDPOINT", "ftp://x".into()));

    let findings = patient.examine();

    assert_eq!(find(&findings, "environment").0, Verdict::Fail);
    assert_eq!(find(&findings, "memory").0, Verdict::Ok);
}

#[test]
fn a_gpu_has_the_memory_that_its_driver_says_is_free() {
    let findings = Patient::new().examine();

    let gpus: Vec<_> = findings.iter().filter(|it| it.check == "gpu memory").collect();
    let verdicts: Vec<_> = gpus.iter().map(|it| it.verdict).collect();
    assert_eq!(verdicts, [Verdict::Ok, Verdict::Warn, Verdict::Warn]);
    assert_eq!(gpus[0].why, "cuda:0 (H, CUDA 12.9): 60.00 GiB of 80.00 GiB free");
    assert!(gpus[1].why.contains("hardly a model fits"));
    assert!(gpus[2].why.contains("it fell off the bus"));
}
