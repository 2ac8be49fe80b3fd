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
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "generate" -d 'Answer a question, about images or without'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "chat" -d 'Talk with the model, about images or without'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "lora" -d 'Teach a model by examples, with images or without'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "eval" -d 'Tell how good a model is on data of your own, and whether another one is better'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "convert" -d 'Make a model folder in MLX\'s layout, quantized or not'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "quantize" -d 'Quantize a model folder'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "bench" -d 'Measure how fast a model is on this machine; of a published one, its shape is enough'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "verify" -d 'Check a model, stage by stage, against recordings of the reference'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "completions" -d 'Print the completion script for a shell'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "man" -d 'Write the man pages into a folder'
complete -c phi3v -n "__fish_phi3v_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s p -l prompt -d 'What to ask; - reads it from stdin' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s s -l system -d 'What the model should know beforehand: the system message' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s n -l max-tokens -d 'The most tokens to generate' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l stop -d 'A text that ends the answer and is not part of it; repeat it for several' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -s i -l image -d 'An image: a file, an http(s) address, a data: address, or - for stdin' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l num-crops -d 'Maximum number of tiles that an image is cut into, or auto: 16 for one image, 4 each for several shown together (phi3_v) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l min-pixels -d 'Minimum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l max-pixels -d 'Maximum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l max-image-pixels -d 'Maximum number of pixels of an image file; larger ones are refused' -r
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
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l image-cache -d 'Keep what the model saw in images in this folder, for other runs' -r -F
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
complete -c phi3v -n "__fish_phi3v_using_subcommand generate" -l input -d 'Answer the prompts in this file, a JSON object a line or a row of a Parquet file, in place of --prompt' -r -F
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
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s i -l image -d 'An image for the first question: a file, an http(s) address or a data: address' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l num-crops -d 'Maximum number of tiles that an image is cut into, or auto: 16 for one image, 4 each for several shown together (phi3_v) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l min-pixels -d 'Minimum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l max-pixels -d 'Maximum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l max-image-pixels -d 'Maximum number of pixels of an image file; larger ones are refused' -r
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
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l image-cache -d 'Keep what the model saw in images in this folder, for other runs' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l image-cache-bytes -d 'The most bytes in that folder' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l draft-model -d 'Guess ahead with a smaller model of the same vocabulary: the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l num-draft-tokens -d 'The most tokens to guess at once [default: 3 with a draft model, 10 with prompt lookup]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l memory-limit -d 'Memory that may be used in all, in bytes [default: what is free]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l no-history -d 'Keep no lines, and know none from earlier'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l no-color -d 'No colours and no thumbnails in the terminal; so does the variable NO_COLOR'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -l prompt-lookup -d 'Guess that what was said will be said again: faster where the answer copies from the prompt, and the same'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand chat" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l data -d 'What to learn: a file of JSON lines or Parquet, or a folder with train.jsonl and, if there are such, valid.jsonl and test.jsonl' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -s o -l adapter-path -d 'Where the adapter and all about the run are written' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l max-seq-length -d 'The most positions of a row, images included; longer rows are bad ones, nothing is cut off' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l mask-prompt -d 'Learn only answers, not prompts' -r -f -a "true\t''
false\t''"
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l batch-size -d 'The most rows that are read at once' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l num-crops -d 'Maximum number of tiles that an image is cut into, or auto: 16 for one image, 4 each for several shown together (phi3_v) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l min-pixels -d 'Minimum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l max-pixels -d 'Maximum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l max-image-pixels -d 'Maximum number of pixels of an image file; larger ones are refused' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l val-split -d 'Hold this share of the rows out for validation, where there is no valid.jsonl' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l pack -d 'Fill batches with as many rows as fit into so many positions, in place of --batch-size' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l mask-ratios -d 'Learn each row once more for each of these shares, with that share of the question hidden and the loss divided by 10^(10 · share), as Phi-3-Vision-MLX does it' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l fine-tune-type -d 'What changes' -r -f -a "lora\t'Low-rank matrices beside the model\'s own'
dora\t'The same, and a magnitude for each row'
full\t'The model\'s own tensors, which must not be quantized'"
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l rank -d 'How many numbers the changes of a matrix go through' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l alpha -d 'Changes are multiplied with ALPHA / rank [default: twice the rank]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l dropout -d 'The share of the inputs of changes that is left out at random' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l num-layers -d 'Change only the last N layers of the language model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l target -d 'Change only those modules of the language model whose path this is found in, such as self_attn [default: attention and MLPs; with --fine-tune-type full all]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l freeze -d 'Of all that would change leave what this is found in as it is, such as patch_embedding' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l epochs -d 'How often each row is learnt' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l iters -d 'Steps, in place of epochs' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l grad-accumulation-steps -d 'Batches whose gradients make up a step' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l optimizer -d 'What makes steps of gradients' -r -f -a "adamw\t'Adam with decoupled weight decay'
sgd\t'Gradient descent with momentum'
adafactor\t'Adam\'s kind with little memory'
lion\t'Signs of momentum'
muon\t'Orthogonalized momentum, in steps as large as AdamW\'s'"
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l learning-rate -d 'The learning rate after the warm-up [default: 1e-4, or 1e-5 with --fine-tune-type full]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l lr-schedule -d 'How the learning rate goes on' -r -f -a "constant\t'The same rate after the warm-up'
linear\t'Down along a line'
cosine\t'Down along half a cosine'"
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l warmup-steps -d 'Steps in which the learning rate grows [default: a twentieth of all, up to 100]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l min-learning-rate -d 'What the learning rate goes down to' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l weight-decay -d 'How fast weights shrink by themselves: by this times the learning rate each step' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l max-grad-norm -d 'Shorten gradients that are longer than this; 0 leaves all as they are' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l seed -d 'Where the random numbers start' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l memory-limit -d 'Memory that may be used in all, in bytes [default: what is free]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l steps-per-report -d 'Steps from a line in metrics.jsonl to the next' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l steps-per-eval -d 'Steps from a look at the held-out rows and the samples to the next [default: an epoch]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l save-every -d 'Steps from a file that --resume goes on from to the next' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l patience -d 'End when the held-out rows were not predicted better so many times' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l sample-prompt -d 'Show what the model says to this at the same steps; repeat it for several' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l sample-image -d 'Images for the prompts above' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l resume -d 'Go on with the run in that folder, as if it had not ended'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l force -d 'Begin anew where that folder holds a run'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l dry-run -d 'Check everything, tell what would be trained and what memory that takes, and end'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l json -d 'Print one JSON object about the run in the end'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l skip-bad -d 'Go on without the rows that are bad'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l rslora -d 'Multiply with ALPHA / √rank'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l train-projector -d 'Also change what makes images\' features the language model\'s'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l train-vision -d 'Also change the vision tower'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l grad-checkpoint -d 'Keep only what enters the layers and compute each twice: a third slower, with a fraction of the memory'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -l plot -d 'Draw the losses in the terminal in the end'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -f -a "test" -d 'Tell how well a model, with or without adapters, answers the rows of a file'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -f -a "fuse" -d 'Make a model folder of a model and its adapters'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -f -a "export" -d 'Write an adapter as another program wants it'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and not __fish_seen_subcommand_from test fuse export help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l data -d 'The rows, as for training: a file, or a folder with test.jsonl' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l max-seq-length -d 'The most positions of a row, images included; longer rows are bad ones, nothing is cut off' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l mask-prompt -d 'Learn only answers, not prompts' -r -f -a "true\t''
false\t''"
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l batch-size -d 'The most rows that are read at once' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l num-crops -d 'Maximum number of tiles that an image is cut into, or auto: 16 for one image, 4 each for several shown together (phi3_v) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l min-pixels -d 'Minimum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l max-pixels -d 'Maximum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l max-image-pixels -d 'Maximum number of pixels of an image file; larger ones are refused' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l json -d 'Print one JSON object'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -l skip-bad -d 'Go on without the rows that are bad'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from test" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -s o -l save-path -d 'Where the model goes' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -l force -d 'Replace a model folder that is there'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -l dequantize -d 'Make a quantized model\'s matrices floats; without it, changed matrices are quantized again as they were'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -l verify -d 'Compare the new model\'s predictions with those of the model with its adapters'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -l json -d 'Print one JSON object'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from fuse" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from export" -l adapter -d 'The adapter: a folder as phi3v, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT write it' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from export" -l format -d 'Who is to read it' -r -f -a "peft\t'Hugging Face\'s PEFT'
mlx-lm\t'mlx-lm, which is also what phi3v writes'
mlx-vlm\t'mlx-vlm'"
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from export" -s o -l save-path -d 'Where it goes' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from export" -l base-model -d 'Name the model that it belongs to, for programs that look for it' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from export" -l force -d 'Replace an adapter that is there'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from export" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from export" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from export" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from help" -f -a "test" -d 'Tell how well a model, with or without adapters, answers the rows of a file'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from help" -f -a "fuse" -d 'Make a model folder of a model and its adapters'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from help" -f -a "export" -d 'Write an adapter as another program wants it'
complete -c phi3v -n "__fish_phi3v_using_subcommand lora; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and not __fish_seen_subcommand_from perplexity kl choice vqa caption help" -s h -l help -d 'Print help'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and not __fish_seen_subcommand_from perplexity kl choice vqa caption help" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and not __fish_seen_subcommand_from perplexity kl choice vqa caption help" -f -a "perplexity" -d 'How well texts are predicted: a file of text, or rows as for lora, with images or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and not __fish_seen_subcommand_from perplexity kl choice vqa caption help" -f -a "kl" -d 'How far predictions are from another model\'s, such as the one that was quantized'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and not __fish_seen_subcommand_from perplexity kl choice vqa caption help" -f -a "choice" -d 'How often the right one of several options is chosen: MMLU, ARC, HellaSwag, MMMU and the like'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and not __fish_seen_subcommand_from perplexity kl choice vqa caption help" -f -a "vqa" -d 'How often questions are answered rightly, about images or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and not __fish_seen_subcommand_from perplexity kl choice vqa caption help" -f -a "caption" -d 'How near captions of images are to people\'s'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and not __fish_seen_subcommand_from perplexity kl choice vqa caption help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l data -d 'The rows: a file of JSON lines, or a Parquet file as the Hugging Face hub has them' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l limit -d 'Look only at so many rows: the first, or random ones with --shuffle' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l seed -d 'Where the random numbers start: of --shuffle, and of the intervals' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -s o -l output -d 'Write what became of each row: prompt, answer, right answers, scores, a JSON object a line' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l compare -d 'Compare with a model, an adapter for the same model, or the output of an earlier run (.jsonl), row by row' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l report -d 'Write a page with the figures and the rows that went wrong, images included' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l num-crops -d 'Maximum number of tiles that an image is cut into, or auto: 16 for one image, 4 each for several shown together (phi3_v) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l min-pixels -d 'Minimum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l max-pixels -d 'Maximum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l max-image-pixels -d 'Maximum number of pixels of an image file; larger ones are refused' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l window -d 'Positions of a window of a text file [default: 2048, or the model\'s context where that is shorter]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l stride -d 'Tokens that each window predicts, with what is before them in the window [default: all but the first]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l max-seq-length -d 'The most positions of a row, images included; longer rows are bad ones [default: the model\'s context]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l shuffle -d 'Take random rows for --limit'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l skip-bad -d 'Go on without the rows that are bad'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l resume -d 'Go on where an earlier run of the same command ended'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l force -d 'Replace the output if it exists'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -l json -d 'Print one JSON object'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from perplexity" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l reference -d 'The model to measure from: a folder, a GGUF file or an id, with the same vocabulary' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l data -d 'The rows: a file of JSON lines, or a Parquet file as the Hugging Face hub has them' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l limit -d 'Look only at so many rows: the first, or random ones with --shuffle' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l seed -d 'Where the random numbers start: of --shuffle, and of the intervals' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -s o -l output -d 'Write what became of each row: prompt, answer, right answers, scores, a JSON object a line' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l compare -d 'Compare with a model, an adapter for the same model, or the output of an earlier run (.jsonl), row by row' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l report -d 'Write a page with the figures and the rows that went wrong, images included' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l num-crops -d 'Maximum number of tiles that an image is cut into, or auto: 16 for one image, 4 each for several shown together (phi3_v) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l min-pixels -d 'Minimum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l max-pixels -d 'Maximum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l max-image-pixels -d 'Maximum number of pixels of an image file; larger ones are refused' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l window -d 'Positions of a window of a text file [default: 2048, or the model\'s context where that is shorter]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l stride -d 'Tokens that each window predicts, with what is before them in the window [default: all but the first]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l max-seq-length -d 'The most positions of a row, images included; longer rows are bad ones [default: the model\'s context]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l shuffle -d 'Take random rows for --limit'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l skip-bad -d 'Go on without the rows that are bad'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l resume -d 'Go on where an earlier run of the same command ended'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l force -d 'Replace the output if it exists'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -l json -d 'Print one JSON object'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from kl" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l by -d 'Which option counts as chosen' -r -f -a "likelihood\t'The option whose text is the likeliest answer, for its length'
letter-likelihood\t'The option whose letter is the likeliest answer to the question with all options'
letter\t'The option whose letter the model answers'"
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l data -d 'The rows: a file of JSON lines, or a Parquet file as the Hugging Face hub has them' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l limit -d 'Look only at so many rows: the first, or random ones with --shuffle' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l seed -d 'Where the random numbers start: of --shuffle, and of the intervals' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -s o -l output -d 'Write what became of each row: prompt, answer, right answers, scores, a JSON object a line' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l compare -d 'Compare with a model, an adapter for the same model, or the output of an earlier run (.jsonl), row by row' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l report -d 'Write a page with the figures and the rows that went wrong, images included' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l num-crops -d 'Maximum number of tiles that an image is cut into, or auto: 16 for one image, 4 each for several shown together (phi3_v) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l min-pixels -d 'Minimum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l max-pixels -d 'Maximum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l max-image-pixels -d 'Maximum number of pixels of an image file; larger ones are refused' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -s s -l system -d 'What the model should know beforehand: the system message' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l instruction -d 'Add this to every question, on a line of its own' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -s n -l max-tokens -d 'The most tokens of an answer [default: 64]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l stop -d 'A text that ends the answer and is not part of it; repeat it for several' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l max-batch-size -d 'The most questions that are answered at once [default: 8]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l prefill-step-size -d 'Positions of the prompt per step: smaller takes less memory, the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l max-kv-size -d 'Forget all positions but the first 4 and the latest, so many in all' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l kv-bits -d 'Pack keys and values in so many bits: 8 or 4' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l kv-group-size -d 'Consecutive numbers of packed keys and values that share a scale [default: the largest of 64 and 32 that divides the model\'s head_dim]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l quantized-kv-start -d 'Leave the keys and values of so many first positions as they are' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l prefix-cache-bytes -d 'Memory for the beginnings of prompts that were read before, in bytes; K, M and G stand for thousands, millions and billions [default: 1G where there are several prompts]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l prompt-cache -d 'Begin with what this file remembers of an earlier prompt, if it exists, and write it in the end' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l image-cache -d 'Keep what the model saw in images in this folder, for other runs' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l image-cache-bytes -d 'The most bytes in that folder' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l draft-model -d 'Guess ahead with a smaller model of the same vocabulary: the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l num-draft-tokens -d 'The most tokens to guess at once [default: 3 with a draft model, 10 with prompt lookup]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l memory-limit -d 'Memory that may be used in all, in bytes [default: what is free]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l shuffle -d 'Take random rows for --limit'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l skip-bad -d 'Go on without the rows that are bad'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l resume -d 'Go on where an earlier run of the same command ended'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l force -d 'Replace the output if it exists'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l json -d 'Print one JSON object'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l ignore-chat-template -d 'Send questions as they are, without the checkpoint\'s chat template'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -l prompt-lookup -d 'Guess that what was said will be said again: faster where the answer copies from the prompt, and the same'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from choice" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l metric -d 'What counts as right: exact, relaxed, vqa, anls, f1, regex; several with commas, the first counts most' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l data -d 'The rows: a file of JSON lines, or a Parquet file as the Hugging Face hub has them' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l limit -d 'Look only at so many rows: the first, or random ones with --shuffle' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l seed -d 'Where the random numbers start: of --shuffle, and of the intervals' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -s o -l output -d 'Write what became of each row: prompt, answer, right answers, scores, a JSON object a line' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l compare -d 'Compare with a model, an adapter for the same model, or the output of an earlier run (.jsonl), row by row' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l report -d 'Write a page with the figures and the rows that went wrong, images included' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l num-crops -d 'Maximum number of tiles that an image is cut into, or auto: 16 for one image, 4 each for several shown together (phi3_v) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l min-pixels -d 'Minimum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l max-pixels -d 'Maximum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l max-image-pixels -d 'Maximum number of pixels of an image file; larger ones are refused' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -s s -l system -d 'What the model should know beforehand: the system message' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l instruction -d 'Add this to every question, on a line of its own' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -s n -l max-tokens -d 'The most tokens of an answer [default: 64]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l stop -d 'A text that ends the answer and is not part of it; repeat it for several' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l max-batch-size -d 'The most questions that are answered at once [default: 8]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l prefill-step-size -d 'Positions of the prompt per step: smaller takes less memory, the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l max-kv-size -d 'Forget all positions but the first 4 and the latest, so many in all' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l kv-bits -d 'Pack keys and values in so many bits: 8 or 4' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l kv-group-size -d 'Consecutive numbers of packed keys and values that share a scale [default: the largest of 64 and 32 that divides the model\'s head_dim]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l quantized-kv-start -d 'Leave the keys and values of so many first positions as they are' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l prefix-cache-bytes -d 'Memory for the beginnings of prompts that were read before, in bytes; K, M and G stand for thousands, millions and billions [default: 1G where there are several prompts]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l prompt-cache -d 'Begin with what this file remembers of an earlier prompt, if it exists, and write it in the end' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l image-cache -d 'Keep what the model saw in images in this folder, for other runs' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l image-cache-bytes -d 'The most bytes in that folder' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l draft-model -d 'Guess ahead with a smaller model of the same vocabulary: the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l num-draft-tokens -d 'The most tokens to guess at once [default: 3 with a draft model, 10 with prompt lookup]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l memory-limit -d 'Memory that may be used in all, in bytes [default: what is free]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l shuffle -d 'Take random rows for --limit'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l skip-bad -d 'Go on without the rows that are bad'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l resume -d 'Go on where an earlier run of the same command ended'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l force -d 'Replace the output if it exists'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l json -d 'Print one JSON object'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l ignore-chat-template -d 'Send questions as they are, without the checkpoint\'s chat template'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -l prompt-lookup -d 'Guess that what was said will be said again: faster where the answer copies from the prompt, and the same'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from vqa" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l metric -d 'What is measured; several with commas, the first counts most' -r -f -a "bleu\t'Words in a row, as sacrebleu counts them: 0 to 100'
rouge-l\t'The longest common subsequence, as rouge-score has it: 0 to 1'
cider\t'Agreement on what is rare elsewhere, as pycocoevalcap has it: 0 to 10'"
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -s p -l prompt -d 'What is asked about images of rows without a prompt' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l data -d 'The rows: a file of JSON lines, or a Parquet file as the Hugging Face hub has them' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l limit -d 'Look only at so many rows: the first, or random ones with --shuffle' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l seed -d 'Where the random numbers start: of --shuffle, and of the intervals' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -s o -l output -d 'Write what became of each row: prompt, answer, right answers, scores, a JSON object a line' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l compare -d 'Compare with a model, an adapter for the same model, or the output of an earlier run (.jsonl), row by row' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l report -d 'Write a page with the figures and the rows that went wrong, images included' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l num-crops -d 'Maximum number of tiles that an image is cut into, or auto: 16 for one image, 4 each for several shown together (phi3_v) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l min-pixels -d 'Minimum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l max-pixels -d 'Maximum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l max-image-pixels -d 'Maximum number of pixels of an image file; larger ones are refused' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -s s -l system -d 'What the model should know beforehand: the system message' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l instruction -d 'Add this to every question, on a line of its own' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -s n -l max-tokens -d 'The most tokens of an answer [default: 64]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l stop -d 'A text that ends the answer and is not part of it; repeat it for several' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l max-batch-size -d 'The most questions that are answered at once [default: 8]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l prefill-step-size -d 'Positions of the prompt per step: smaller takes less memory, the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l max-kv-size -d 'Forget all positions but the first 4 and the latest, so many in all' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l kv-bits -d 'Pack keys and values in so many bits: 8 or 4' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l kv-group-size -d 'Consecutive numbers of packed keys and values that share a scale [default: the largest of 64 and 32 that divides the model\'s head_dim]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l quantized-kv-start -d 'Leave the keys and values of so many first positions as they are' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l prefix-cache-bytes -d 'Memory for the beginnings of prompts that were read before, in bytes; K, M and G stand for thousands, millions and billions [default: 1G where there are several prompts]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l prompt-cache -d 'Begin with what this file remembers of an earlier prompt, if it exists, and write it in the end' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l image-cache -d 'Keep what the model saw in images in this folder, for other runs' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l image-cache-bytes -d 'The most bytes in that folder' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l draft-model -d 'Guess ahead with a smaller model of the same vocabulary: the answer stays the same' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l num-draft-tokens -d 'The most tokens to guess at once [default: 3 with a draft model, 10 with prompt lookup]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l memory-limit -d 'Memory that may be used in all, in bytes [default: what is free]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l shuffle -d 'Take random rows for --limit'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l skip-bad -d 'Go on without the rows that are bad'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l resume -d 'Go on where an earlier run of the same command ended'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l force -d 'Replace the output if it exists'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l json -d 'Print one JSON object'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l ignore-chat-template -d 'Send questions as they are, without the checkpoint\'s chat template'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -l prompt-lookup -d 'Guess that what was said will be said again: faster where the answer copies from the prompt, and the same'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from caption" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from help" -f -a "perplexity" -d 'How well texts are predicted: a file of text, or rows as for lora, with images or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from help" -f -a "kl" -d 'How far predictions are from another model\'s, such as the one that was quantized'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from help" -f -a "choice" -d 'How often the right one of several options is chosen: MMLU, ARC, HellaSwag, MMMU and the like'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from help" -f -a "vqa" -d 'How often questions are answered rightly, about images or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from help" -f -a "caption" -d 'How near captions of images are to people\'s'
complete -c phi3v -n "__fish_phi3v_using_subcommand eval; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
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
complete -c phi3v -n "__fish_phi3v_using_subcommand convert" -l calibration -d 'Text (.txt), an image, or a folder of such, for --quant-method gptq, --target-bpw and --report [default: built in]' -r -F
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
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l calibration -d 'Text (.txt), an image, or a folder of such, for --quant-method gptq, --target-bpw and --report [default: built in]' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l force -d 'Replace the folder if it is a model folder'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l json -d 'Print one JSON object with sizes and figures'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l quantize-vision -d 'Pack the part that sees, too'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -l report -d 'Measure how far predictions move, and print it; also written into the new folder, as quantization_report.json'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand quantize" -s V -l version -d 'Print version'
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l shape -d 'A published model\'s shape, filled with random numbers: as fast as the model, and nothing is downloaded' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s p -l prompt-tokens -d 'Tokens of the prompt, besides those of images; several, separated by commas, as in all that follow' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s n -l gen-tokens -d 'Tokens to generate; 0 for none' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s b -l batch -d 'Rows that are computed together; they share the positions of --depth' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s i -l images -d 'Images in the prompt, photos of 3 megapixels' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l num-crops -d 'Maximum number of tiles that an image is cut into (phi3_v) [default: 4]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s d -l depth -d 'Positions that are in the cache before the prompt' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s r -l repetitions -d 'Measurements of each combination' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l warmup -d 'Rounds before them that do not count' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s o -l output -d 'Write the report as JSON to this file, too' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l compare -d 'Tell how speeds changed since this report of the same machine and model was written' -r -F
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l max-regression -d 'Fail where a phase lost more of its median speed than this, and no repetition was as fast as the slowest then' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s m -l model -d 'Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l revision -d 'Branch, tag or commit of a hub model' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l dtype -d 'Numbers in which to compute' -r -f -a "auto\t'As the checkpoint has it'
float32\t'32-bit floats: exact, twice the memory'
float16\t'16-bit IEEE floats'
bfloat16\t'16-bit floats with the range of 32-bit ones'"
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l adapter -d 'Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l threads -d 'Threads to compute with, on a CPU [default: one for each physical core]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l q-bits -d 'Bits of a weight: 2, 3, 4, 5, 6 or 8 [default: 16, or as the next two want it]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l q-group-size -d 'Consecutive weights that share a scale: 32, 64 or 128 [default: 64, of mxfp4 and mxfp8 32, of nvfp4 16]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l q-mode -d 'Number format [default: affine]' -r -f -a "affine\t'Integers with a scale and an offset for each group: 2 to 8 bits'
mxfp4\t'OCP\'s 4-bit floats in groups of 32'
nvfp4\t'NVIDIA\'s 4-bit floats in groups of 16'
mxfp8\t'OCP\'s 8-bit floats in groups of 32'"
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l prefill-step-size -d 'Positions of prompts per step' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l kv-bits -d 'Pack keys and values in so many bits: 8 or 4' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l memory-limit -d 'Memory that may be used in all, in bytes [default: what is free]' -r
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l list-shapes -d 'List the shapes there are, and end'
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l json -d 'Print the report as one JSON object'
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -l markdown -d 'Print the report as a Markdown table'
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s q -l quiet -d 'Print only the result, warnings and errors'
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s v -l verbose -d 'Tell more about what is done, on stderr'
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c phi3v -n "__fish_phi3v_using_subcommand bench" -s V -l version -d 'Print version'
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
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "generate" -d 'Answer a question, about images or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "chat" -d 'Talk with the model, about images or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "lora" -d 'Teach a model by examples, with images or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "eval" -d 'Tell how good a model is on data of your own, and whether another one is better'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "convert" -d 'Make a model folder in MLX\'s layout, quantized or not'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "quantize" -d 'Quantize a model folder'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "bench" -d 'Measure how fast a model is on this machine; of a published one, its shape is enough'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "verify" -d 'Check a model, stage by stage, against recordings of the reference'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "completions" -d 'Print the completion script for a shell'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "man" -d 'Write the man pages into a folder'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and not __fish_seen_subcommand_from generate chat lora eval convert quantize bench verify completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and __fish_seen_subcommand_from lora" -f -a "test" -d 'Tell how well a model, with or without adapters, answers the rows of a file'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and __fish_seen_subcommand_from lora" -f -a "fuse" -d 'Make a model folder of a model and its adapters'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and __fish_seen_subcommand_from lora" -f -a "export" -d 'Write an adapter as another program wants it'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and __fish_seen_subcommand_from eval" -f -a "perplexity" -d 'How well texts are predicted: a file of text, or rows as for lora, with images or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and __fish_seen_subcommand_from eval" -f -a "kl" -d 'How far predictions are from another model\'s, such as the one that was quantized'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and __fish_seen_subcommand_from eval" -f -a "choice" -d 'How often the right one of several options is chosen: MMLU, ARC, HellaSwag, MMMU and the like'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and __fish_seen_subcommand_from eval" -f -a "vqa" -d 'How often questions are answered rightly, about images or without'
complete -c phi3v -n "__fish_phi3v_using_subcommand help; and __fish_seen_subcommand_from eval" -f -a "caption" -d 'How near captions of images are to people\'s'
