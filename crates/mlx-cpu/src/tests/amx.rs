//! AMX on CPUs without it: its instructions fault, and the fault's handler does what they would have done. So the very
//! instructions that `amx.rs` contains are tested everywhere, against Intel's description of them (volume 2, chapter 3
//! and 4 of the manual, and the extensions' reference for TDPBF16PS).

use std::cell::RefCell;

use half::bf16;

use super::distance;

#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    row_bytes: usize,
    data: [[u8; 64]; 16],
}

thread_local! {
    static TILES: RefCell<Option<[Tile; 8]>> = const { RefCell::new(None) };
}

/// Registers in the order of their numbers in instructions.
const REGISTERS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Does the instruction that faulted, and goes on behind it.
unsafe extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands the handler a valid context of the faulting thread.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: instructions are at most 15 bytes, and more code follows.
    let code: [u8; 12] = unsafe { at.cast::<[u8; 12]>().read_unaligned() };
    let register = |number: u8| registers[REGISTERS[number as usize] as usize] as usize;
    // VEX with three bytes, map 0F38, 128 bits: only AMX's instructions fault here.
    assert!(code[0] == 0xc4 && code[1] & 0x1f == 2, "{code:x?}");
    let (extend_index, extend_base) = (u8::from(code[1] & 0x40 == 0), u8::from(code[1] & 0x20 == 0));
    let (prefix, opcode, modrm) = (code[2] & 3, code[3], code[4]);
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let mut len = 5;
    let (mut address, mut stride) = (0, 0);
    if mode < 3 {
        let base = if rm == 4 {
            let sib = code[5];
            len += 1;
            let index = sib >> 3 & 7 | extend_index << 3;
            stride = if index == 4 { 0 } else { register(index) << (sib >> 6) };
            sib & 7
        } else {
            rm
        };
        assert!(!(base == 5 && mode == 0), "no absolute addresses here");
        address = register(base | extend_base << 3);
        match mode {
            1 => {
                address = address.wrapping_add_signed(code[len] as i8 as isize);
                len += 1;
            }
            2 => {
                let offset: [u8; 4] = code[len..len + 4].try_into().unwrap();
                address = address.wrapping_add_signed(i32::from_le_bytes(offset) as isize);
                len += 4;
            }
            _ => {}
        }
    }
    let mut tiles = TILES.take();
    match (opcode, prefix, mode == 3) {
        // LDTILECFG
        (0x49, 0, false) => {
            // SAFETY: the operand is 64 bytes.
            let config = unsafe { (address as *const [u8; 64]).read() };
            assert!(config[0] == 1 && config[1..16].iter().all(|&byte| byte == 0));
            assert!(config[32..48].iter().chain(&config[56..]).all(|&byte| byte == 0), "there are eight tiles");
            tiles = Some(std::array::from_fn(|i| {
                let row_bytes = usize::from(u16::from_le_bytes([config[16 + 2 * i], config[17 + 2 * i]]));
                let rows = usize::from(config[48 + i]);
                assert!(rows <= 16 && row_bytes <= 64 && (rows == 0) == (row_bytes == 0));
                Tile { rows, row_bytes, data: [[0; 64]; 16] }
            }));
        }
        // TILERELEASE
        (0x49, 0, true) => tiles = None,
        // TILELOADD, TILESTORED
        (0x4b, 3 | 2, false) => {
            let load = prefix == 3;
            let tile = &mut tiles.as_mut().unwrap()[reg as usize];
            assert!(tile.rows > 0, "tile {reg} is not configured");
            for row in 0..tile.rows {
                let memory = (address + row * stride) as *mut u8;
                // SAFETY: the operand is as large as the tile.
                unsafe {
                    let memory = std::slice::from_raw_parts_mut(memory, tile.row_bytes);
                    let row = &mut tile.data[row][..tile.row_bytes];
                    if load { row.copy_from_slice(memory) } else { memory.copy_from_slice(row) }
                }
            }
        }
        // TDPBF16PS
        (0x5c, 2, true) => {
            let tiles = tiles.as_mut().unwrap();
            let (left, right) = (tiles[rm as usize], tiles[usize::from(!(code[2] >> 3) & 15)]);
            let sum = &mut tiles[reg as usize];
            assert!(sum.rows == left.rows && left.row_bytes == 4 * right.rows && sum.row_bytes == right.row_bytes);
            let number = |tile: &Tile, row: usize, i: usize| {
                bf16::from_le_bytes([tile.data[row][2 * i], tile.data[row][2 * i + 1]]).to_f32()
            };
            for m in 0..sum.rows {
                for n in 0..sum.row_bytes / 4 {
                    let to: &mut [u8; 4] = (&mut sum.data[m][4 * n..4 * n + 4]).try_into().unwrap();
                    let mut value = f32::from_le_bytes(*to);
                    for k in 0..right.rows {
                        for half in 0..2 {
                            value += number(&left, m, 2 * k + half) * number(&right, k, 2 * n + half);
                        }
                    }
                    *to = value.to_le_bytes();
                }
            }
        }
        other => panic!("no instruction of AMX: {other:x?}"),
    }
    TILES.set(tiles);
    registers[libc::REG_RIP as usize] += len as i64;
}

/// From here on, instructions of AMX do not fault.
pub(crate) fn emulate() -> bool {
    // SAFETY: the handler only does what is said above; other illegal instructions fail its assertions.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()) == 0
    }
}

#[test]
fn tiles() {
    if !crate::Level::Amx.is_supported() {
        return;
    }
    let number = |i: usize| bf16::from_f32(((i * 7919 + 13) % 1009) as f32 / 500.0 - 1.0);
    for rows in [1, 15, 16, 17, 31, 32] {
        for words in [16, 48] {
            for add in [false, true] {
                // [rows, 2 · words] and [2 · words, 32]
                let left = |row: usize, k: usize| number(row * 2 * words + k);
                let right = |k: usize, column: usize| number(5 + k * 32 + column);
                let pair = |low: bf16, high: bf16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
                let block: Vec<u32> = (0..rows * words)
                    // [words / 16, rows, 16]
                    .map(|i| (i / 16 % rows, i / (16 * rows) * 16 + i % 16))
                    .map(|(row, word)| pair(left(row, 2 * word), left(row, 2 * word + 1)))
                    .collect();
                let panel: Vec<u32> = (0..words * 32)
                    .map(|i| pair(right(2 * (i / 32), i % 32), right(2 * (i / 32) + 1, i % 32)))
                    .collect();
                let mut tile = vec![0.5_f32; rows * 32];
                crate::amx::multiply(&block, rows, &panel, &mut tile, add);
                let exact: Vec<f64> = (0..rows * 32)
                    .map(|i| {
                        let product = |k| left(i / 32, k).to_f64() * right(k, i % 32).to_f64();
                        (0..2 * words).map(product).sum::<f64>() + if add { 0.5 } else { 0.0 }
                    })
                    .collect();
                let got: Vec<f64> = tile.iter().map(|&x| f64::from(x)).collect();
                assert!(distance(&got, &exact) < 1e-6, "{rows} rows, {words} words, add {add}");
            }
        }
    }
}
