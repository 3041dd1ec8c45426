"""What the adaptors for engines share. The adaptors have the short names: lzpenalty.vllm, lzpenalty.llama_cpp, ..."""
