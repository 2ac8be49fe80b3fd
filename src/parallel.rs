//! Loops on all cores.

/// The results of `work` for each row, computed by all threads.
pub(crate) fn parallel<T: Send>(rows: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = mlx_cpu::threads().clamp(1, rows.max(1));
    let share = rows.div_ceil(threads);
    std::thread::scope(|scope| {
        let run = |thread: usize| {
            let work = &work;
            scope.spawn(move || (thread * share..rows.min((thread + 1) * share)).map(work).collect::<Vec<T>>())
        };
        let handles: Vec<_> = (0..threads).map(run).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("rounding does not panic")).collect()
    })
}
