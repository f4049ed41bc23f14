output "directory_policy_arn" {
  description = "Attach it to the role or user that the directory runs as."
  value       = aws_iam_policy.directory.arn
}

output "topic_arn" {
  description = "Where the hooks tell of lifecycle actions."
  value       = aws_sns_topic.hooks.arn
}

output "dead_letters_url" {
  description = "Look here for what was not taken."
  value       = aws_sqs_queue.dead_letters.url
}

output "queue_urls" {
  description = "For [events] sqs in directory.toml; empty in mode lambda."
  value       = [for queue in aws_sqs_queue.events : queue.url]
}

output "function_arn" {
  description = "The function that posts to the directory; null in mode sqs."
  value       = one(aws_lambda_function.deliver[*].arn)
}
