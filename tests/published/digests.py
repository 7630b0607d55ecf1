"""SHA-256 of published files, in hexadecimal, as public records have them: the inventory of dinoml/model-configs-rs
(corpus/report-repositories.json), pointers to large files where a file was stored as one, and lists of files with their digests
in repositories that check what they download. What facts.py says must have them, written as such files are."""

DIGESTS = {
    'google-t5/t5-small': {
        'config.json': '530e25060e3a8d5f7b0fcf53bfea9f3601165161f3b1914676e98d97cf07bcf1',
        'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a',
    },
    'google/flan-t5-small': {
        'config.json': '439aa0fecf5a5546a1def68b1fc45e538e2c94528ce805378daf091e2bf6e4de',
        'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a',
    },
    'google/mt5-small': {
        'config.json': 'b25aaf4603a85d703b28eec4e72ca8c768fca30d987b4a544f4f1d158ae4e1b5',
        'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a',
    },
    'google/mt5-base': {
        'config.json': '7ce360bdccf5b665dbb8c32f6912f1d8fd394aa553c133863283a16503d6d550',
        'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a',
        'special_tokens_map.json': '09059cedc26bc46bc09a52f05b92d4922e11917e87f3b92059bb1a63a59ab2c4',
    },
    'google/mt5-xxl': {
        'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a',
        'special_tokens_map.json': '09059cedc26bc46bc09a52f05b92d4922e11917e87f3b92059bb1a63a59ab2c4',
    },
    'google/byt5-small': {
        'config.json': '7845fb21b320f3fa05392ce151143502cf08729c8c89732da3293615885d3e83',
        'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a',
    },
    'google/byt5-base': {
        'config.json': '9ae8e9a2cae4494e62d43f90d5583817769125af2bc122cc914dff545546fda8',
        'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a',
    },
    'google/long-t5-local-base': {'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a'},
    'google/long-t5-tglobal-base': {
        'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a'
    },
    'google/long-t5-tglobal-large': {
        'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a'
    },
    'facebook/bart-base': {'config.json': 'c4022c931216afcb778991477332e5312aca8be478027ee3a8bf34b7004c44e2'},
    'facebook/bart-large': {
        'config.json': '1ef73a85a141b1c46315c3c0f72c4dc678842c5d198f939510e6543ac847b17b',
        'tokenizer_config.json': '5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f',
    },
    'facebook/bart-large-cnn': {
        'config.json': 'c6cb642aec929b65f514ee0ec7c04f9de19f705c143491577ecd8b7cc923c6ed',
        'generation_config.json': '4897361917410254e3132e8fe7786d37f3ef7cff54a650845c1147c2450a790f',
    },
    'facebook/bart-large-xsum': {
        'generation_config.json': '515945d881be772d724d8126f90f412a22d0e98ed3136af54e02713c010146a1',
        'tokenizer_config.json': '5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f',
    },
    'sshleifer/distilbart-cnn-12-6': {
        'config.json': '028d72a28b90a369eff3f99ceb585fbd2ababf070e8577d72c315757a49b8917',
        'tokenizer_config.json': '5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f',
    },
    'facebook/mbart-large-50-many-to-many-mmt': {
        'config.json': '71d11a7ecb68a5823078844af5ec27a025967f2e877abf3f841118aae65eaeaf',
        'generation_config.json': '04bbe13d2de85371b4eeb6d272061f0b24b8280abd8edb29efa5e6f502431647',
        'tokenizer_config.json': '46e34f80b4063a3608cfb6dc4033047d8f8ffc451ad1f36dce2ce77fe66686f2',
    },
    'facebook/mbart-large-50': {'generation_config.json': '04bbe13d2de85371b4eeb6d272061f0b24b8280abd8edb29efa5e6f502431647'},
    'facebook/mbart-large-cc25': {'generation_config.json': '0262de0aa444f1696a485a7b58d0f76e2a60babb47ede96fd8db2a2e3766addd'},
    'google/pegasus-large': {
        'config.json': '9b86460c98ee9e0d5f4d4744d092093e3f74e98a74ada946214ac526603b9f36',
        'generation_config.json': 'c1fa450941d3ad3ef7d6366ba0545a5352600f4e6ce9ad87eefe7bccfb9b791b',
        'special_tokens_map.json': '09059cedc26bc46bc09a52f05b92d4922e11917e87f3b92059bb1a63a59ab2c4',
    },
    'openai-community/gpt2': {
        'config.json': '0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4',
        'generation_config.json': 'ed0b32ac72c0f5f44a719abb2d7786ea5146c871f83717b7f2018065954de02b',
        'tokenizer_config.json': '5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f',
    },
    'openai-community/gpt2-medium': {
        'config.json': 'ef1a44d889ad1a0acc7731c78134f1b87d2d222f110e97dd10fd4117331caf22',
        'generation_config.json': 'b90eadacf585a743a30ea51e8b5c88b8d282a2a34dc0c7e556d0987cdbd68805',
        'tokenizer_config.json': '5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f',
    },
    'openai-community/gpt2-large': {
        'config.json': '7fccdcfd6622055342a734c663ee0b61ff4fd697f42467595df0bf4448c8c170',
        'generation_config.json': 'b90eadacf585a743a30ea51e8b5c88b8d282a2a34dc0c7e556d0987cdbd68805',
        'tokenizer_config.json': '5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f',
    },
    'openai-community/gpt2-xl': {
        'config.json': 'be48115d52314bc27327e160bf10197760db02ea689d10adb24db4102edf7a8a',
        'generation_config.json': 'b90eadacf585a743a30ea51e8b5c88b8d282a2a34dc0c7e556d0987cdbd68805',
        'tokenizer_config.json': '5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f',
    },
    'distilbert/distilgpt2': {
        'config.json': '4ec5947c1d59fee6212cdf3b0ec1a53eac02092554c5ff0a733488cbd2c64f3a',
        'generation_config.json': 'b90eadacf585a743a30ea51e8b5c88b8d282a2a34dc0c7e556d0987cdbd68805',
        'tokenizer_config.json': '5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f',
    },
    'facebook/opt-125m': {
        'config.json': '54162c9cd0377110df1859dfabebb106fc0988c8aadb88207ce1ee0d34985df6',
        'generation_config.json': 'd37de99f9835d7a4d0916257f724504d12c4a668f36a50b2d42e09ba4ebd05d5',
        'special_tokens_map.json': '0f3cd5f307a2735cfee31ddf33be88655e8be165ee2cdc26ced966f04258adf0',
    },
    'facebook/opt-350m': {
        'config.json': '3ec75df0e166476e342cf95226ba775d8155449a7b1e430728b3ca26b425e4ab',
        'generation_config.json': 'd37de99f9835d7a4d0916257f724504d12c4a668f36a50b2d42e09ba4ebd05d5',
        'special_tokens_map.json': '0f3cd5f307a2735cfee31ddf33be88655e8be165ee2cdc26ced966f04258adf0',
    },
    'facebook/opt-1.3b': {
        'config.json': 'f1aaceefb7d34d346e9b0400d95fdb4970567bcbe1d4aba1068c5402099b644f',
        'generation_config.json': 'd37de99f9835d7a4d0916257f724504d12c4a668f36a50b2d42e09ba4ebd05d5',
        'special_tokens_map.json': '0f3cd5f307a2735cfee31ddf33be88655e8be165ee2cdc26ced966f04258adf0',
    },
    'facebook/opt-6.7b': {
        'config.json': '05bcf525449fe484fd741ec49620e96e74992c13e46d83327165645a38666ce6',
        'generation_config.json': 'd37de99f9835d7a4d0916257f724504d12c4a668f36a50b2d42e09ba4ebd05d5',
        'special_tokens_map.json': '0f3cd5f307a2735cfee31ddf33be88655e8be165ee2cdc26ced966f04258adf0',
    },
    'facebook/opt-13b': {
        'config.json': '2c94ede930d5788e00573e671da80cc836bf7006c03c69696fd0f9a9dbc5e14f',
        'generation_config.json': 'd37de99f9835d7a4d0916257f724504d12c4a668f36a50b2d42e09ba4ebd05d5',
        'special_tokens_map.json': '0f3cd5f307a2735cfee31ddf33be88655e8be165ee2cdc26ced966f04258adf0',
    },
    'NousResearch/Llama-2-7b-hf': {'config.json': '3c66a81e29ce617a74ff2e4055e7fb275b5c9457103864745693fbce59b368a2'},
    'meta-llama/Llama-3.1-8B-Instruct': {
        'config.json': '29e4c210b0d6ac178b16b2a255a568bdb23b581e50ca1ef6a6d071dd85704e6e',
        'generation_config.json': '189fb0c0d7fd8a527db217c0a60a0e013f0394cd8800f9697a666a9e75e5f7fd',
    },
    'google-t5/t5-base': {'config.json': '46dd7cb62d29c81fb551e0ef1ea274c24a46ba441eeb948897706252933df033'},
    'google/flan-t5-base': {
        'config.json': '7c1853dbfa0e4aac093eb109a358b6ab25fe86b7c15185a91322f0ed26f0f940',
        'generation_config.json': 'f5a1c7e2be8092018d8835128987edf0111637dd98e90599cc80310fef75d95a',
    },
    'google/flan-t5-large': {'config.json': 'bfa5beeb5a4630a97f043f071b9b5d858c842604cff5db874680f33b56090c8c'},
    'meta-llama/Llama-2-7b-hf': {
        'config.json': '9242e7db1bc2a17873e66084c3b1c6ed10883076e156b338fd6a7775748e2e3c',
        'generation_config.json': '11e70f5fd0a1a47346b5a941ff0049d226b353a1647735d9ec171a2b1521e881',
    },
    'meta-llama/Llama-2-7b-chat-hf': {
        'config.json': 'c904bd84ff892a2a0a454a35a4031914ccb65a82974ac8ab0fe34d3744656fc2',
        'generation_config.json': '4eb769d945b7c9a9d9b5ee0cff40ac23a62e218ac683f87ac68d8ad9cd18dd7f',
    },
    'TinyLlama/TinyLlama-1.1B-Chat-v1.0': {
        'config.json': '486bedda3a6988332e60d9638a09ca4b260d34ebcf1b19e22cf3b140b63d8fe9',
        'generation_config.json': '18046d04f5bd8b4998095ecabdd17a1bf0053d9acdccead4a05be4a3575f3c5c',
        'special_tokens_map.json': '82d96d7a9e6ced037f12394b7ea6a5b02e6ca87e0d11edaa8d60d9be857ce7db',
    },
    'meta-llama/Meta-Llama-3-8B': {'config.json': '2430cee764b6530ff8673cf9ba8561e1d5a33152d503cd0de909ff5718261441'},
    'meta-llama/Meta-Llama-3-8B-Instruct': {'config.json': '61f3de03a16ca8046b05dc777bce72717022bc8522152eee61a69072272ef54b'},
    'meta-llama/Llama-3.2-1B-Instruct': {
        'config.json': '2febf68cea25bf4611be02b7536f2488a5ba523bb1134986e3610152abe74fdb',
        'generation_config.json': '88effbb63300dbbc7390143fbbdd9d9fa50587b37e8bfd16c8c90d4970a74a36',
        'special_tokens_map.json': '6f38c73729248f6c127296386e3cdde96e254636cc58b4169d3fd32328d9a8ec',
    },
    'HuggingFaceTB/SmolLM2-135M': {'config.json': '1d556eab73b69c7f11f64c557a2f9c6f440bd4c6b89bb2584a6b498c92603843'},
    'HuggingFaceTB/SmolLM2-135M-Instruct': {
        'config.json': '8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a',
        'generation_config.json': '87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013',
        'special_tokens_map.json': '2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52',
    },
    'HuggingFaceTB/SmolLM2-1.7B-Instruct': {
        'config.json': '994f50b16abb4ae00880baefe03c10260b5bd608d2bf586f7056ca05a534feea',
        'generation_config.json': '87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013',
        'special_tokens_map.json': '2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52',
    },
}
