//! stub
use crate::processor::Tokenizer;
use anyhow::Result;
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grammar {
    JsonSchema(String),
    Regex(String),
    Lark(String),
}
pub struct Vocabulary;
#[derive(Clone)]
pub struct Constraint;
impl Vocabulary {
    pub fn new(_: &Tokenizer, _: usize, _: &[u32]) -> Result<Self> {
        Ok(Self)
    }
    pub fn constraint(&self, _: &Grammar) -> Result<Constraint> {
        Ok(Constraint)
    }
}
impl Constraint {
    pub fn mask(&mut self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }
    pub fn accept(&mut self, _: u32) -> Result<()> {
        Ok(())
    }
    pub fn is_complete(&self) -> bool {
        true
    }
    pub fn is_finished(&self) -> bool {
        false
    }
    pub fn forced(&mut self) -> Vec<u32> {
        Vec::new()
    }
}
