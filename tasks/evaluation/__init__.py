"""What an evaluation is made of: queries asked, exact answers, judgements, tables. `tasks.measures` has the formulas, this the data."""
