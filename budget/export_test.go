package budget

// Day is day, for its test.
var Day = day
