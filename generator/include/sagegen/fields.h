// Field tables: each member of a struct of options is named once, with its token in keys and its legal
// values. Keys, TOML, JSON, option texts, enumeration, random specs and the sentences that refuse a value
// all read the table.
//
//   struct Spec { int head_dim = 128; DType io = DType::f16; bool causal = false; };
//   const Fields fields{field<&Spec::head_dim>("head_dim", "d", numbers({64, 128})),
//                       field<&Spec::io>("io", "", words<DType>({{DType::f16, "f16"}, {DType::bf16, "bf16"}})),
//                       flag<&Spec::causal>("causal", "causal")};      // "d128_f16", "d128_f16_causal"
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace sagegen {

// What a field may hold. Everything is an int: a number, or an enumerator that has a word.
struct Values {
  std::vector<int> allowed;  // empty: every number from least to most
  int least = 0, most = 0;
  std::vector<std::string_view> words;   // parallel to allowed; empty: written as numbers
  std::vector<std::string_view> tokens;  // the same in keys
  std::string_view (*spell)(int) =
      nullptr;  // words of further enumerators; "?" where there is none

  bool has(int value) const;
  std::vector<int> all() const;  // in the order of the table
};

Values numbers(std::initializer_list<int> allowed);
Values range(int least, int most);

template <typename Enum>
struct Word {
  Enum value;
  std::string_view word;
  std::string_view token = word;  // in keys, where it is shorter
};
template <typename Enum>
Values words(std::initializer_list<Word<Enum>> table) {
  Values values;
  if constexpr (requires { std::string_view(to_string(Enum{})); })
    values.spell = [](int value) -> std::string_view {
      return to_string(static_cast<Enum>(value));
    };
  for (const Word<Enum>& entry : table) {
    values.allowed.push_back(static_cast<int>(entry.value));
    values.words.push_back(entry.word);
    values.tokens.push_back(entry.token);
  }
  return values;
}

// One member of a struct, reached through the struct's address.
struct Field {
  std::string_view name;  // in TOML, JSON, option texts and sentences: "head_dim"
  std::string_view tag;   // in keys, before the value: "d" of d128
  Values values;
  int (*get)(const void*);
  void (*set)(void*, int);
  int initial;                           // the default of the struct
  std::string (*advice)(int) = nullptr;  // how the sentence that refuses a value ends
  bool is_flag = false;                  // bool: its tag is there or not
  bool silent = false;                   // not in the key while it holds `initial`
  bool joined = false;                   // follows the token before it without '_'

  std::string word(int value) const;  // "128", "f16", "true"; a number if there is no word
};
using Fields = std::vector<Field>;

namespace detail {
template <auto Member>
struct MemberOf;
template <typename S, typename T, T S::*M>
struct MemberOf<M> {
  using Struct = S;
  static int get(const void* object) { return static_cast<int>(static_cast<const S*>(object)->*M); }
  static void set(void* object, int value) { static_cast<S*>(object)->*M = static_cast<T>(value); }
};
}  // namespace detail

template <auto Member>
Field field(std::string_view name, std::string_view tag, Values values,
            std::string (*advice)(int) = nullptr) {
  using Of = detail::MemberOf<Member>;
  const typename Of::Struct initial{};
  return {.name = name,
          .tag = tag,
          .values = std::move(values),
          .get = Of::get,
          .set = Of::set,
          .initial = Of::get(&initial),
          .advice = advice};
}

// A bool that is off by default and whose token is in the key only while it is on.
template <auto Member>
Field flag(std::string_view name, std::string_view token) {
  Field result =
      field<Member>(name, token, words<bool>({{false, "false", ""}, {true, "true", ""}}));
  result.is_flag = result.silent = true;
  return result;
}

// A field that joined an existing family: keys written before it existed mean its default.
Field later(Field field);
// "g32" and joined "x64": g32x64.
Field joined(Field field);

// The tokens of a key part: "d128_f16_causal".
std::string key_text(const Fields& fields, const void* object);
// Fills `object` from the beginning of `text`, takes what it read off, and leaves silent fields that are not
// there alone. Reads the form only: values need not be legal. Returns null, or the field that `text`
// should have gone on with.
const Field* read_key_text(const Fields& fields, std::string_view& text, void* object);

// Sets a field by name from a word ("f16", "64", "true"). Throws SpecError that says what is valid.
void set_field(const Fields& fields, void* object, std::string_view name, std::string_view word);
const Field* find_field(const Fields& fields, std::string_view name);  // null if there is none
// Sets what a text of options names, "head_dim=128 io=f16 causal", in any order. Throws SpecError that says what is valid.
void read_options(const Fields& fields, void* object, std::string_view text);

// {"head_dim": 128, "io": "f16", "causal": false}
std::string json_text(const Fields& fields, const void* object);
// "head_dim=128 io=f16 causal=false"
std::string options_text(const Fields& fields, const void* object);

// "head_dim 100 is refused: ..." for every field that holds no legal value.
std::vector<std::string> refused_values(const Fields& fields, const void* object);

// "g<number>", "f16 or bf16": what belongs into a key or a text.
std::string expected_token(const Field& field);
std::string expected_word(const Field& field);

}  // namespace sagegen
