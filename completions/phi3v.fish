# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_phi3v_global_optspecs
    string join \n h/help V/version
end

function __fish_phi3v_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_phi3v_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_phi3v_using_subcommand
    set -l cmd (__fish_phi3v_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c phi3v -n "__fish_phi3v_needs_command" -s h -l help -d 'Print help'
complete -c phi3v -n "__fish_phi3v_needs_command" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "generate" -d 'Answer a question, about pictures or without'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "chat" -d 'Talk with the model, about pictures or without'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "convert" -d 'Make a model folder in MLX\'s layout, quantized or not'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "quantize" -d 'Quantize a model folder'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "verify" -d 'Check a model, stage by stage, against recordings of the reference'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "completions" -d 'Print the completion script for a shell'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "man" -d 'Write the man pages into a folder'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s p -l prompt -d 'What to ask; - reads it from stdin' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s s -l system -d 'What the model should know beforehand: the system message' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s n -l max-tokens -d 'The most tokens to generate' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l stop -d 'A text that ends the answer and is not part of it; repeat it for several' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s m -l model -d 'Folder of a checkpoint, a GGUF file, or an id on the Hugging Face hub' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s i -l image -d 'A picture: a file, an http(s) address, a data: address, or - for stdin' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l num-crops -d 'The most tiles a picture is cut into, or auto: 16 for one picture, 4 each for several [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l max-image-pixels -d 'The most pixels a picture may have' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s t -l temperature -l temp -d '0 always takes the best token; higher is more varied' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l top-k -d 'Only the K best tokens; 0 for all' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l top-p -d 'Only the best tokens that together have probability P' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l min-p -d 'Only tokens at least P times as probable as the best' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l repetition-penalty -d 'Make tokens of the prompt and the answer less likely: logits are divided by this' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l repetition-context-size -d 'How many of the last tokens the repetition penalty looks at [default: all]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l presence-penalty -d 'Subtract from the logits of tokens already in the answer' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l frequency-penalty -d 'Subtract from the logits of tokens, for each time they are in the answer' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l seed -d 'Where the random numbers start: the same seed gives the same answer' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l prefill-step-size -d 'Positions of the prompt per step: smaller takes less memory, the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l max-kv-size -d 'Forget all positions but the first 4 and the latest, so many in all' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l kv-bits -d 'Pack keys and values in so many bits: 8 or 4' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l kv-group-size -d 'Consecutive numbers of packed keys and values that share a scale [default: the largest of 64 and 32 that divides the model\'s head_dim]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l quantized-kv-start -d 'Leave the keys and values of so many first positions as they are' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l prefix-cache-bytes -d 'Memory for the beginnings of prompts that were read before, in bytes; K, M and G stand for thousands, millions and billions [default: 1G where there are several prompts]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l prompt-cache -d 'Begin with what this file remembers of an earlier prompt, if it exists, and write it in the end' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l image-cache -d 'Keep what the model saw in pictures in this folder, for other runs' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l image-cache-bytes -d 'The most bytes in that folder' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l draft-model -d 'Guess ahead with a smaller model of the same vocabulary: the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l num-draft-tokens -d 'The most tokens to guess at once [default: 3 with a draft model, 10 with prompt lookup]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l memory-limit -d 'Memory that may be used in all, in bytes [default: what is free]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l json-schema -d 'Answer in JSON of this schema; - reads it from stdin' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l regex -d 'Answer with a text that matches this regular expression as a whole' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l grammar -d 'Answer in the language of this grammar, in llguidance\'s variant of Lark; - reads it from stdin' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l choose -d 'Choose one of several answers; repeat it for each' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l constrain -d 'Come to this phrase within some tokens, where it fits best; repeat it for several, one after the other' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l within -d 'The most tokens before each phrase' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l early-stop -d 'From N tokens on, end where the model could have ended well' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l input -d 'Answer the prompts in this file, a JSON object a line, in place of --prompt' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l output -d 'Where the answers go, a JSON object a line in the order of the rows; - for stdout' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l max-batch-size -d 'The most rows that are answered at once [default: 8]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l ignore-chat-template -d 'Send the prompt as it is, without the checkpoint\'s chat template'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l json -d 'Print one JSON object with text, token ids, finish reason and timings'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l explain -d 'Tell what the model is given and what happens to it: the rendered prompt, which tokens come from where, what was known before, longrope\'s factors, time per phase'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l prompt-lookup -d 'Guess that what was said will be said again: faster where the answer copies from the prompt, and the same'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l beams -d 'Try the three best tokens before a phrase, not just the best'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l resume -d 'Go on where an earlier run of the same command ended'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l force -d 'Replace the output if it exists'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s s -l system -d 'What the model should know beforehand: the system message' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s n -l max-tokens -d 'The most tokens of an answer' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l stop -d 'A text that ends an answer and is not part of it; repeat it for several' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l history -d 'Where the lines typed in a terminal are kept [default: phi3v/history in the folder for programs\' state]' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s m -l model -d 'Folder of a checkpoint, a GGUF file, or an id on the Hugging Face hub' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s i -l image -d 'A picture for the first question: a file, an http(s) address or a data: address' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l num-crops -d 'The most tiles a picture is cut into, or auto: 16 for one picture, 4 each for several in a question [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l max-image-pixels -d 'The most pixels a picture may have' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s t -l temperature -l temp -d '0 always takes the best token; higher is more varied' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l top-k -d 'Only the K best tokens; 0 for all' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l top-p -d 'Only the best tokens that together have probability P' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l min-p -d 'Only tokens at least P times as probable as the best' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l repetition-penalty -d 'Make tokens of the prompt and the answer less likely: logits are divided by this' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l repetition-context-size -d 'How many of the last tokens the repetition penalty looks at [default: all]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l presence-penalty -d 'Subtract from the logits of tokens already in the answer' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l frequency-penalty -d 'Subtract from the logits of tokens, for each time they are in the answer' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l seed -d 'Where the random numbers start: the same seed gives the same answer' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l prefill-step-size -d 'Positions of the prompt per step: smaller takes less memory, the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l max-kv-size -d 'Forget all positions but the first 4 and the latest, so many in all' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l kv-bits -d 'Pack keys and values in so many bits: 8 or 4' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l kv-group-size -d 'Consecutive numbers of packed keys and values that share a scale [default: the largest of 64 and 32 that divides the model\'s head_dim]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l quantized-kv-start -d 'Leave the keys and values of so many first positions as they are' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l prefix-cache-bytes -d 'Memory for the beginnings of prompts that were read before, in bytes; K, M and G stand for thousands, millions and billions [default: 1G where there are several prompts]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l prompt-cache -d 'Begin with what this file remembers of an earlier prompt, if it exists, and write it in the end' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l image-cache -d 'Keep what the model saw in pictures in this folder, for other runs' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l image-cache-bytes -d 'The most bytes in that folder' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l draft-model -d 'Guess ahead with a smaller model of the same vocabulary: the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l num-draft-tokens -d 'The most tokens to guess at once [default: 3 with a draft model, 10 with prompt lookup]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l memory-limit -d 'Memory that may be used in all, in bytes [default: what is free]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l no-history -d 'Keep no lines, and know none from earlier'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l no-color -d 'No colours and no small pictures in the terminal; so does the variable NO_COLOR'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l prompt-lookup -d 'Guess that what was said will be said again: faster where the answer copies from the prompt, and the same'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l hf-path -l model -d 'Folder of a checkpoint, or its id on the Hugging Face hub' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l gguf -d 'A GGUF file in place of a checkpoint\'s folder' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l upload-repo -d 'Publish the new folder on the hub under this id, with the token in HF_TOKEN' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l export-gguf -d 'Write a GGUF file for llama.cpp in place of a folder: of phi3, llama and mistral models' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l gguf-type -d 'Numbers of the GGUF file\'s matrices [default: f16]' -r -f -a "f16\t'16-bit floats'
q8_0\t'8 bits in groups of 32'
q4_0\t'4 bits in groups of 32'"
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l mlx-path -d 'The new folder' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l dtype -d 'Type of tensors that are not packed [default: the one that config.json names, or as stored]' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l q-bits -d 'Bits of a weight: 2, 3, 4, 5, 6 or 8 [default: 4, of mxfp8 8]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l q-group-size -d 'Consecutive weights that share a scale: 32, 64 or 128 [default: 64, of mxfp4 and mxfp8 32, of nvfp4 16]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l q-mode -d 'Number format [default: affine]' -r -f -a "affine\t'Integers with a scale and an offset for each group: 2 to 8 bits'
mxfp4\t'OCP\'s 4-bit floats in groups of 32'
nvfp4\t'NVIDIA\'s 4-bit floats in groups of 16'
mxfp8\t'OCP\'s 8-bit floats in groups of 32'"
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l quant-predicate -d 'A recipe: few bits for most matrices, more for those whose errors hurt most' -r -f -a "mixed_2_6\t''
mixed_3_4\t''
mixed_3_6\t''
mixed_4_6\t''
mixed_4_8\t''"
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l q-override -d 'Other bits for modules whose path matches, as \'lm_head=8\', \'layers\\.[01]\\.=6:32\' or \'down_proj=none\'' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l quant-method -d 'How numbers are rounded: gptq takes minutes, and costs less accuracy [default: rtn]' -r -f -a "rtn\t'Each to the nearest'
gptq\t'So that errors make up for one another on the inputs that a matrix gets (GPTQ)'"
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l target-bpw -d 'Bits per weight of the whole model: what each matrix costs in fewer bits is measured, and bits go where they count' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l calibration -d 'Text (.txt), a picture, or a folder of such, for --quant-method gptq, --target-bpw and --report [default: built in]' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -s q -l quantize -d 'Pack the matrices into few bits'
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -s d -l dequantize -d 'Make packed matrices floats again'
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l force -d 'Replace the folder if it is a model folder'
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l json -d 'Print one JSON object with sizes and figures'
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l quantize-vision -d 'Pack the part that sees, too'
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l report -d 'Measure how far predictions move, and print it; also written into the new folder, as quantization_report.json'
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -s m -l model -l hf-path -d 'Folder of a checkpoint, in MLX\'s or Hugging Face\'s layout, or a GGUF file' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l mlx-path -d 'The new folder' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l dtype -d 'Type of tensors that are not packed [default: the one that config.json names, or as stored]' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l q-bits -d 'Bits of a weight: 2, 3, 4, 5, 6 or 8 [default: 4, of mxfp8 8]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l q-group-size -d 'Consecutive weights that share a scale: 32, 64 or 128 [default: 64, of mxfp4 and mxfp8 32, of nvfp4 16]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l q-mode -d 'Number format [default: affine]' -r -f -a "affine\t'Integers with a scale and an offset for each group: 2 to 8 bits'
mxfp4\t'OCP\'s 4-bit floats in groups of 32'
nvfp4\t'NVIDIA\'s 4-bit floats in groups of 16'
mxfp8\t'OCP\'s 8-bit floats in groups of 32'"
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l quant-predicate -d 'A recipe: few bits for most matrices, more for those whose errors hurt most' -r -f -a "mixed_2_6\t''
mixed_3_4\t''
mixed_3_6\t''
mixed_4_6\t''
mixed_4_8\t''"
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l q-override -d 'Other bits for modules whose path matches, as \'lm_head=8\', \'layers\\.[01]\\.=6:32\' or \'down_proj=none\'' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l quant-method -d 'How numbers are rounded: gptq takes minutes, and costs less accuracy [default: rtn]' -r -f -a "rtn\t'Each to the nearest'
gptq\t'So that errors make up for one another on the inputs that a matrix gets (GPTQ)'"
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l target-bpw -d 'Bits per weight of the whole model: what each matrix costs in fewer bits is measured, and bits go where they count' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l calibration -d 'Text (.txt), a picture, or a folder of such, for --quant-method gptq, --target-bpw and --report [default: built in]' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l force -d 'Replace the folder if it is a model folder'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l json -d 'Print one JSON object with sizes and figures'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l quantize-vision -d 'Pack the part that sees, too'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l report -d 'Measure how far predictions move, and print it; also written into the new folder, as quantization_report.json'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand verify" -s m -l model -d 'Folder of a checkpoint [default: for each recording the nearest folder above it that has a config.json]' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand verify" -s g -l golden -d 'Folder with recordings of the reference implementation; folders below it are searched, too' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand verify" -l prefill-step-size -d 'Prefill in steps of so many positions; several, separated by commas, must all give the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand verify" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand verify" -l json -d 'Print one JSON object per recording'
complete -c phi3v -n "__fish_phi3v_using_subcommand verify" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand verify" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand verify" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand completions" -s h -l help -d 'Print help'
complete -c phi3v -n "__fish_phi3v_using_subcommand completions" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand man" -s h -l help -d 'Print help'
complete -c phi3v -n "__fish_phi3v_using_subcommand man" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat convert quantize verify completions man help" -f -a "generate" -d 'Answer a question, about pictures or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat convert quantize verify completions man help" -f -a "chat" -d 'Talk with the model, about pictures or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat convert quantize verify completions man help" -f -a "convert" -d 'Make a model folder in MLX\'s layout, quantized or not'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat convert quantize verify completions man help" -f -a "quantize" -d 'Quantize a model folder'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat convert quantize verify completions man help" -f -a "verify" -d 'Check a model, stage by stage, against recordings of the reference'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat convert quantize verify completions man help" -f -a "completions" -d 'Print the completion script for a shell'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat convert quantize verify completions man help" -f -a "man" -d 'Write the man pages into a folder'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat convert quantize verify completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
