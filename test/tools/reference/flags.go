package main

import (
	"slices"
	"strings"

	"spotinference/cli"
)

// flags is docs/configuration.md's part: serve's flags by group, those of all commands,
// and those of the others.
func flags() string {
	var parts []string
	section := func(title string, of []cli.Flag) {
		if len(of) == 0 {
			return
		}
		var rows [][]string
		for _, f := range of {
			rows = append(rows, []string{code("--" + f.Name), code(f.Env), typeOf(f), code(f.Default), f.Help})
		}
		parts = append(parts, "### "+title+"\n\n"+table([]string{"flag", "variable", "value", "default", "what it does"}, rows))
	}
	all := cli.Flags()
	pick := func(is func(cli.Flag) bool) []cli.Flag {
		return slices.DeleteFunc(slices.Clone(all), func(f cli.Flag) bool { return !is(f) })
	}
	section("Every command", pick(func(f cli.Flag) bool { return len(f.Of) == 0 }))

	ofServe := func(f cli.Flag) bool { return slices.Contains(f.Of, "serve") }
	var groups []string
	for _, f := range pick(ofServe) {
		if !slices.Contains(groups, f.Group) {
			groups = append(groups, f.Group)
		}
	}
	for _, g := range groups {
		section("serve: "+g, pick(func(f cli.Flag) bool { return ofServe(f) && f.Group == g }))
	}

	var rows [][]string
	for _, f := range pick(func(f cli.Flag) bool { return len(f.Of) > 0 && !ofServe(f) }) {
		rows = append(rows, []string{code("--" + f.Name), strings.Join(f.Of, ", "), code(f.Env), typeOf(f), code(f.Default), f.Help})
	}
	parts = append(parts, "### Other commands\n\n"+table([]string{"flag", "of", "variable", "value", "default", "what it does"}, rows))
	return strings.Join(parts, "\n")
}

// typeOf says what a flag's value is: its type, unit and range.
func typeOf(f cli.Flag) string {
	words := []string{map[string]string{"string": "text", "strings": "list of texts", "bool": "true or false", "int": "whole number"}[f.Type]}
	if words[0] == "" {
		words[0] = f.Type
	}
	if f.Unit != "" {
		words[0] += " (" + f.Unit + ")"
	}
	switch {
	case f.Least != "" && f.Most != "":
		words = append(words, f.Least+" to "+f.Most)
	case f.Least == "0s":
		words = append(words, "0 or more")
	case f.Least != "":
		words = append(words, "more than 0")
	}
	return strings.Join(words, ", ")
}
