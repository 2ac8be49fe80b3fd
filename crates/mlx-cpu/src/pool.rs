//! Threads that stay awake between the operations of a forward pass.
//!
//! An operation lasts some hundred microseconds, as long as it takes to wake a thread. So the workers spin for a while
//! after each job before they sleep.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a worker waits awake.
const AWAKE: Duration = Duration::from_micros(200);

/// The threads to use, the calling one included.
pub fn set_threads(threads: usize) {
    THREADS.store(threads.max(1), Relaxed);
    *lock(POOL.get_or_init(|| Mutex::new(Pool::new(1)))) = Pool::new(threads);
}

/// The threads in use: as many as there are physical cores, unless [`set_threads`] said otherwise.
pub fn threads() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = || {
        let allowed = thread::available_parallelism().map_or(1, Into::into);
        num_cpus::get_physical().clamp(1, allowed)
    };
    match THREADS.load(Relaxed) {
        0 => *CORES.get_or_init(cores),
        threads => threads,
    }
}

static THREADS: AtomicUsize = AtomicUsize::new(0);
static POOL: OnceLock<Mutex<Pool>> = OnceLock::new();

/// Calls `work` with every number below `tasks`, on all threads. Which thread does which is not determined.
pub(crate) fn parallel(tasks: usize, work: impl Fn(usize) + Sync) {
    let pool = POOL.get_or_init(|| Mutex::new(Pool::new(threads())));
    // If another MLX stream is at it, or this is a task's own call, it is done here.
    if tasks > 1
        && let Ok(pool) = pool.try_lock()
        && !pool.workers.is_empty()
    {
        return pool.run(tasks, &work);
    }
    (0..tasks).for_each(work);
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Thread>,
}

/// The job at hand. `gate` is the number of the job, above one bit that says whether workers may still join it, above
/// the count of those who did and are not done.
struct Shared {
    gate: AtomicUsize,
    job: Mutex<Job>,
    next: AtomicUsize,
    asleep: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: `work` points to something that may be called from all threads, and is called only while it is alive.
unsafe impl Send for Job {}

const OPEN: usize = 1 << 16;
const MEMBERS: usize = OPEN - 1;
const NUMBER: usize = OPEN << 1;
/// A job number that ends the workers.
const END: usize = usize::MAX & !(OPEN | MEMBERS);

impl Pool {
    fn new(threads: usize) -> Self {
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| ();
        let shared = Arc::new(Shared {
            gate: AtomicUsize::new(0),
            job: Mutex::new(Job { work: nothing, tasks: 0 }),
            next: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
        });
        let workers = (1..threads)
            .filter_map(|i| {
                let shared = shared.clone();
                // Without a thread the others do its work.
                let spawned = thread::Builder::new().name(format!("kernel-{i}")).spawn(move || shared.serve());
                Some(spawned.ok()?.thread().clone())
            })
            .collect();
        Self { shared, workers }
    }

    fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. Nobody uses the pointer after this function: it ends when the gate is shut
        // and the last member has left.
        let work: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        let shared = &*self.shared;
        let job = Job { work, tasks };
        *shared.job.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = job;
        shared.next.store(0, Relaxed);
        let number = (shared.gate.load(Relaxed) & !(OPEN | MEMBERS)).wrapping_add(NUMBER) % END;
        shared.gate.store(number | OPEN, SeqCst);
        if shared.asleep.load(SeqCst) > 0 {
            self.workers.iter().for_each(Thread::unpark);
        }
        shared.take_part(job);
        shared.gate.fetch_and(!OPEN, AcqRel);
        while shared.gate.load(Acquire) & MEMBERS > 0 {
            spin_loop();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.gate.store(END, SeqCst);
        self.workers.iter().for_each(Thread::unpark);
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        std::process::abort();
    }
}

impl Shared {
    fn take_part(&self, job: Job) {
        // Others use what the panicking task borrowed, and a member that is gone would be waited for.
        let bomb = AbortOnPanic;
        loop {
            let task = self.next.fetch_add(1, Relaxed);
            if task >= job.tasks {
                return std::mem::forget(bomb);
            }
            // SAFETY: the caller of `Pool::run` is still in it, as we are a member of its job.
            unsafe { (*job.work)(task) };
        }
    }

    /// What a worker does all its life.
    fn serve(&self) {
        let mut done = 0;
        while let Some(gate) = self.wait_for_other_than(done) {
            let joined = self.gate.compare_exchange(gate, gate + 1, AcqRel, Relaxed).is_ok();
            if joined {
                let job = *self.job.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                self.take_part(job);
                self.gate.fetch_sub(1, AcqRel);
                done = gate & !(OPEN | MEMBERS);
            }
        }
    }

    /// The gate of an open job that is not number `done`, or none at the end of the pool.
    fn wait_for_other_than(&self, done: usize) -> Option<usize> {
        let mut since = Instant::now();
        let mut polls = 0_u32;
        loop {
            let gate = self.gate.load(SeqCst);
            if gate == END {
                return None;
            }
            if gate & OPEN > 0 && gate & !(OPEN | MEMBERS) != done {
                return Some(gate);
            }
            polls = polls.wrapping_add(1);
            if !polls.is_multiple_of(64) || since.elapsed() < AWAKE {
                spin_loop();
                continue;
            }
            self.asleep.fetch_add(1, SeqCst);
            if self.gate.load(SeqCst) == gate {
                thread::park();
            }
            self.asleep.fetch_sub(1, SeqCst);
            since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_also_after_a_pause_and_from_many_callers() {
        let check = |tasks: usize| {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            parallel(tasks, |i| {
                counts[i].fetch_add(1, Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Relaxed) == 1), "{tasks}");
        };
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..200 {
                        check(round % 50);
                        if round % 40 == 0 {
                            thread::sleep(AWAKE * 3);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn tasks_may_have_tasks() {
        let count = AtomicUsize::new(0);
        parallel(4, |_| {
            parallel(4, |_| {
                count.fetch_add(1, Relaxed);
            });
        });
        assert_eq!(count.into_inner(), 16);
    }
}
