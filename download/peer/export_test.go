package peer

// ParseRange is for the fuzz target.
var ParseRange = parseRange
