fn main() {
    let a = mlx_rs::Array::from_slice(&[1.0f32, 2.0], &[2]);
    let b = a.as_dtype(mlx_rs::Dtype::Bfloat16).unwrap();
    println!("{:?} {:?}", &a + &a, b.as_slice::<half::bf16>());
}
