//! A compiled filter, and what it can reach while it runs: the values of the file, by `input` and `inputs`.

use jaq_core::data::{DataT, HasLut};
use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Lut, Vars, native, unwrap_valr};
use jaq_json::Val;
use jaq_std::input::{self, HasInputs, Inputs};

/// A compiled filter.
pub struct Filter(jaq_core::Filter<Values>);

/// What kind of values and surroundings a filter has.
struct Values;

impl DataT for Values {
    type V<'a> = Val;
    type Data<'a> = Surroundings<'a>;
}

#[derive(Clone)]
struct Surroundings<'a> {
    lut: &'a Lut<Values>,
    inputs: Inputs<'a, Val>,
}

impl<'a> HasLut<'a, Values> for Surroundings<'a> {
    fn lut(&self) -> &'a Lut<Values> {
        self.lut
    }
}

impl<'a> HasInputs<'a, Val> for Surroundings<'a> {
    fn inputs(&self) -> Inputs<'a, Val> {
        self.inputs
    }
}

/// The filter that `code` describes. The error says where it is none.
pub fn compile(code: &str) -> Result<Filter, String> {
    let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let functions = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let inputs = input::funs::<Values>().into_vec().into_iter().map(native::run::<Values>);
    let arena = Arena::default();
    let modules = Loader::new(definitions).load(&arena, File { code, path: () });
    let modules = modules.map_err(|errors| errors.first().map_or_else(String::new, |(_, error)| said(error)))?;
    let compiled = Compiler::default().with_funs(functions.chain(inputs)).compile(modules);
    compiled.map(Filter).map_err(|errors| {
        let undefined = errors.iter().flat_map(|(_, errors)| errors).next();
        undefined.map_or_else(String::new, |(name, kind)| format!("the {} {name:?} is not defined", kind.as_str()))
    })
}

fn said(error: &load::Error<&str>) -> String {
    let expected = |what: &str, rest: &str| match rest {
        "" => format!("{what} is expected at its end"),
        rest => format!("{what} is expected at {rest:?}"),
    };
    match error {
        load::Error::Io(errors) => errors.first().map_or_else(String::new, |(path, why)| format!("{path:?}: {why}")),
        load::Error::Lex(errors) => {
            errors.first().map_or_else(String::new, |(what, rest)| expected(what.as_str(), rest))
        }
        load::Error::Parse(errors) => {
            errors.first().map_or_else(String::new, |(what, rest)| expected(what.as_str(), rest))
        }
    }
}

impl Filter {
    /// Gives `each` what the filter makes of `value`, up to the first error.
    pub fn run(
        &self,
        value: Val,
        inputs: Inputs<'_, Val>,
        mut each: impl FnMut(Val) -> Result<(), String>,
    ) -> Result<(), String> {
        let surroundings = Surroundings { lut: &self.0.lut, inputs };
        let context = Ctx::<Values>::new(surroundings, Vars::new([]));
        for result in self.0.id.run((context, value)).map(unwrap_valr) {
            each(result.map_err(|error| error.to_string())?)?;
        }
        Ok(())
    }
}
