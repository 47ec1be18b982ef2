package source

// ParseContentRange is for the fuzz target.
var ParseContentRange = parseContentRange
